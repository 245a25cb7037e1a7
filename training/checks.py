"""Recipe against data: what would fail only hours later is refused before anything is made."""

from mcl_clip.clustering.pseudo_labels import UserLabels
from mcl_clip.errors import UserError
from mcl_clip.fusion.fit_sample import check_enough
from mcl_clip.shards.manifest import Manifest
from training.recipe import Recipe


def check_data(recipe: Recipe, source: Manifest, reads_captions: bool = True) -> None:
    """`UserError` for data that is no source or is too small for the recipe."""
    if source.kind != "source":
        raise UserError(
            f"--train-data {source.directory} holds {source.kind}, not source shards; give the tars it was made from"
        )
    if reads_captions and not source.has_captions:
        raise UserError(
            f"--train-data {source.directory} was indexed for its images alone; give the tars, or an index of theirs "
            "with captions"
        )
    if source.num_samples < recipe.data.global_batch:
        raise UserError(
            f"{source.num_samples} samples are fewer than one global batch of {recipe.data.global_batch} "
            "(--batch-size x --accum-freq x processes): lower --batch-size or bring more data"
        )
    for stage in recipe.stages[: recipe.num_stages]:
        if stage.clusters > source.num_samples:
            raise UserError(
                f"--mcl-clusters {stage.clusters} is more than the {source.num_samples} samples; choose fewer"
            )
        if stage.clusters > recipe.clustering.reservoir:
            raise UserError(
                f"--mcl-clusters {stage.clusters} is more than the {recipe.clustering.reservoir} samples "
                "that k-means is fitted on; raise --mcl-reservoir"
            )
    for stage in recipe.stages[1:]:
        if stage.labels:
            UserLabels(stage.labels)


def check_fit(recipe: Recipe, source: Manifest, data: Manifest | None) -> None:
    """`UserError` when there are no pairs to fit the fusion's weights on, or as good as none."""
    if data is None:
        raise UserError(
            f"--mcl-fusion fitted needs pairs that no stage is trained on: {source.directory} sets none apart; index "
            "its tars with --mcl-fit-share, or give --val-data"
        )
    named = f"--mcl-fit-share ({source.apart}) of {source.directory}" if source.apart else "--val-data"
    check_enough(data, len(recipe.stages), named)
