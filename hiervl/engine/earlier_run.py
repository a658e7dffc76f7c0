"""An earlier training in the same folder: it is not overwritten without --overwrite, and not mixed with the new one."""

from pathlib import Path

from hiervl.utils.errors import UserError
from hiervl.visualization.report import TWIN_FOLDER

# Files of a run, except logs (lines are dropped from them) and the record (the new run writes its own).
LEFT_BY_A_RUN = (
    "model_*.pth", "last_checkpoint", "results.json", "health.json", "report.html", "report_*.json",
    "predictions_*.png", "training_pictures/*.png",
)  # fmt: skip


def refuse_earlier_run(output_dir: str) -> None:
    """
    Raises:
        UserError: the folder, or that of the supervised twin within, holds checkpoints of an earlier training.
    """
    for folder in (Path(output_dir), Path(output_dir) / TWIN_FOLDER):
        checkpoints = sorted(path.name for path in folder.glob("model_*.pth"))
        if not checkpoints:
            continue
        state = "a finished training" if "model_final.pth" in checkpoints else "a training that was interrupted"
        raise UserError(
            f"OUTPUT_DIR '{folder}' holds {state} ({', '.join(checkpoints)}): continue it with --resume, choose "
            "another OUTPUT_DIR, or replace it with --overwrite."
        )


def remove_earlier_run(output_dir: str) -> None:
    """Remove the files of an earlier training, so that none is taken for one of the new training."""
    for pattern in LEFT_BY_A_RUN:
        for path in Path(output_dir).glob(pattern):
            path.unlink(missing_ok=True)
