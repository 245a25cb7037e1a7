"""mcl-export-hf: a fused model as a directory that transformers runs."""

import argparse

from mcl_clip.errors import UserError, exit_on_user_error
from mcl_clip.fusion.files import load_fused
from mcl_clip.fusion.fused_model import FusedCLIP
from mcl_clip.fusion.hub_export import export_hf
from mcl_clip.fusion.load import fuse, fused_directory
from mcl_clip.fusion.output import check_output
from mcl_clip.help_text import with_examples
from mcl_clip.launch import one_process


@exit_on_user_error
@one_process
def main(arguments: list[str] | None = None) -> int:
    """Write the directory."""
    parser = argparse.ArgumentParser(
        prog="mcl-export-hf",
        description=with_examples(
            (
                "mcl-export-hf runs/demo/fused --output runs/demo-hf",
                "mcl-export-hf runs/demo/stage_0 --output runs/demo-hf-stage",
            ),
            "Write a fused model for transformers: AutoModel.from_pretrained(OUTPUT, trust_remote_code=True) and "
            'pipeline("zero-shot-image-classification", model=OUTPUT, trust_remote_code=True).',
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", metavar="FUSED_DIR", help="a fused directory, a stage directory, or hf-hub:OWNER/NAME of either"
    )
    parser.add_argument("--output", required=True, help="directory to write")
    options = parser.parse_args(arguments)
    check_output(options.output)
    directory = fused_directory(options.model)
    model = fuse([options.model]) if directory is None else load_fused(directory)
    if not isinstance(model, FusedCLIP):
        raise UserError(f"{options.model} embeds images alone; its stages load in timm as they are (mcl-fuse --split)")
    export_hf(model, options.output)
    print(f"{options.output}: {model.num_stages} stages for transformers")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
