"""Where annotations and pictures lie on the user's disk, from what the options say."""

from __future__ import annotations

from pathlib import Path

from attnpatch.evaluation.errors import SkipCell, UsageError
from attnpatch.evaluation.tasks.options import TaskOptions

# Folder inside --data-dir, what it must hold, and where that comes from.
FOLDERS = {
    "pope": ("coco_pope_random.json, ..._popular.json, ..._adversarial.json", "RUCAIBox/POPE on GitHub, output/coco"),
    "coco": ("instances_val2014.json, captions_val2014.json", "cocodataset.org, annotations_trainval2014.zip"),
    "mme": ("<subtask>.txt files, or JSON rows in one file", "MME's eval_tool, or lmms-lab-encoder/MME on the Hub"),
    "amber": ("annotations.json, query/, relation.json, safe_words.txt", "junyangwang0410/AMBER on GitHub, data"),
}
PICTURES = "images"  # inside --data-dir, where --image-root is not given
_SUBFOLDERS = ("{group}", "{group}/images", "{benchmark}/{group}", "{benchmark}", "", "val2014", "train2014", "image")


class Data:
    """The files of the benchmarks that have some."""

    def __init__(self, options: TaskOptions) -> None:
        self.options = options
        self.root = None if options.data_dir is None else Path(options.data_dir).expanduser()

    def place(self, benchmark: str) -> Path:
        """The folder (for MME also the file) with a benchmark's annotations.

        Raises:
            SkipCell: it is not given.
            UsageError: it is given, and is not there.
        """
        given = getattr(self.options, benchmark)
        holds, source = FOLDERS[benchmark]
        if given is not None:
            path = Path(given).expanduser()
            if not path.exists():
                raise UsageError(f"--{benchmark} {given!r} does not exist. It must hold {holds} ({source}).")
            return path
        if self.root is not None and (self.root / benchmark).exists():
            return self.root / benchmark
        there = "is not given" if self.root is None else f"is not under --data-dir {str(self.root)!r}"
        raise SkipCell(
            f"its data {there}: {holds}",
            f"pass --{benchmark} PATH, or --data-dir DIR with {benchmark}/; from {source}",
        )

    def pope(self, split: str) -> Path:
        """The file of one split. Raises as `place`, and UsageError where several could be meant."""
        folder = self.place("pope")
        if folder.is_file():
            raise UsageError(f"--pope {str(folder)!r} is a file. Give the folder with the files of the three splits.")
        files = sorted(path for path in folder.iterdir() if split in path.name and path.suffix in (".json", ".jsonl"))
        if not files:
            raise SkipCell(f"no file for the split {split!r} is in {str(folder)!r}", f"get {FOLDERS['pope'][0]}")
        if len(files) > 1:
            found = ", ".join(path.name for path in files)
            raise UsageError(f"--pope {str(folder)!r} holds several files of the split {split!r}: {found}. Keep one.")
        return files[0]

    @property
    def pictures(self) -> Path:
        """The folder with the pictures. Raises SkipCell or UsageError."""
        if self.options.image_root is not None:
            path = Path(self.options.image_root).expanduser()
            if not path.is_dir():
                raise UsageError(f"--image-root {self.options.image_root!r} is not a folder.")
            return path
        if self.root is not None and (self.root / PICTURES).is_dir():
            return self.root / PICTURES
        raise SkipCell("no pictures are given", f"pass --image-root DIR, or --data-dir DIR with {PICTURES}/")

    def picture(self, benchmark: str, name: str, group: str = "") -> Path | None:
        """The file of a picture: under the root, or in one of the usual folders inside; None if there is none."""
        folders = (self.pictures / part.format(benchmark=benchmark, group=group) for part in _SUBFOLDERS)
        return next((folder / name for folder in folders if (folder / name).is_file()), None)
