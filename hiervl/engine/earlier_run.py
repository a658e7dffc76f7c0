"""What a training finds in its folder of one before: it is neither overwritten unasked nor mixed with the new one."""

from pathlib import Path

from hiervl.utils.errors import UserError
from hiervl.visualization.report import TWIN_FOLDER

# What a run leaves, its logs apart, from which lines are dropped, and its record, which the new run writes anew.
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
            f"OUTPUT_DIR '{folder}' holds {state} ({', '.join(checkpoints)}): go on with it by --resume, choose "
            "another OUTPUT_DIR, or replace it by --overwrite."
        )


def remove_earlier_run(output_dir: str) -> None:
    """Remove what an earlier training left, so that nothing of it is taken for the new one's."""
    for pattern in LEFT_BY_A_RUN:
        for path in Path(output_dir).glob(pattern):
            path.unlink(missing_ok=True)
