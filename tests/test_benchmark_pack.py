"""The packing benchmark packs what it says, beside tar, and prints one line."""

import json

from benchmarks.pack import main


def test_one_line_with_every_number(tmp_path, capfd):
    sizes = ["--images", "30", "--few-images", "10", "--image-kib", "20", "--repeats", "1", "--workers", "1"]
    assert main(["--json", *sizes, "--directory", str(tmp_path)]) == 0
    (line,) = capfd.readouterr().out.splitlines()
    result = json.loads(line)
    assert result["images"] == 30 and 0.55 < result["mib"] < 0.65
    assert result["peak_mib"] > 50 and abs(result["peak_grows_mib"]) < 50
    assert result["ratio_vs_tar"] > 0 and len(result["pack_s"]) == len(result["tar_s"]) == 1
    assert not list(tmp_path.iterdir())
