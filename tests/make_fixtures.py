"""Makes `tests/fixtures/data`: a few rows of every benchmark, invented, in its real schema.

Columns and types are those of the data cards (written down in each task's file); questions,
answers and pictures are ours, so nothing is redistributed. Rows are awkward on purpose: Unicode,
quotes, two questions on one picture, five options, pictures in every mode that occurs.

    .venv/bin/python tests/make_fixtures.py            # writes tests/fixtures/data
    .venv/bin/forgeteval tasks check --data tests/fixtures/data
"""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

FOLDER = Path(__file__).parent / "fixtures" / "data"
IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
LETTER = "Answer with the option's letter from the given choices directly."


def picture(seed: int, mode: str = "RGB") -> bytes:
    """A small picture; equal seeds give equal pixels. `mode` picks encoding and Pillow mode."""
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 8, 3), dtype=np.uint8)
    picture = Image.fromarray(pixels).resize((32, 24), Image.Resampling.NEAREST)
    out = io.BytesIO()
    if mode == "I;16":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(out, "PNG")
    elif mode == "CMYK":
        picture.convert("CMYK").save(out, "JPEG")
    elif mode == "exif":
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by a quarter
        picture.save(out, "JPEG", exif=exif)
    elif mode == "gif":
        turned = picture.rotate(180)
        picture.save(out, "GIF", save_all=True, append_images=[turned])
    else:
        picture.convert(mode).save(out, "PNG")
    return out.getvalue()


def cell(seed: int, mode: str = "RGB") -> dict[str, Any]:
    """An image cell as `datasets` writes it."""
    return {"bytes": picture(seed, mode), "path": f"{seed}.png"}


def write(path: Path, rows: list[dict[str, Any]], **kinds: pa.DataType) -> None:
    """Rows as Parquet; columns named image, image_N are image cells."""
    names = list(rows[0])
    for name in names:
        if name == "image" or (name.startswith("image_") and name[6:].isdigit()):
            kinds.setdefault(name, IMAGE)
    arrays = [pa.array([row[name] for row in rows], kinds.get(name)) for name in names]
    path.parent.mkdir(parents=True, exist_ok=True)
    # Small row groups, so that reading by row group is tried; no codec-dependent bytes.
    pq.write_table(pa.table(arrays, names), path, row_group_size=2, compression="none")


def cub200(folder: Path) -> None:
    birds = [f"Bird {k}" for k in range(25)] + ["Chuck-will's-widow"]
    options = "\n".join(f"{chr(65 + k)}. {bird}" for k, bird in enumerate(birds))
    question = f"What is the species of the bird in this image?\n{LETTER}\n{options}\n<image>"
    rows = [{"image": cell(k), "question": question, "answer": a} for k, a in enumerate("AZM")]
    write(folder / "cub200.parquet", rows)


def pixmo_count(folder: Path) -> None:
    rows = [
        {
            "image": cell(k),
            "question": f"How many {what} are in this image?\n<image>",
            "answer": answer,
        }
        for k, what, answer in [
            (1, "dogs", "There are 3 dogs in this image."),
            (2, 'so-called "sea lions"', "There is 1 sea lion in this image."),
            (3, "people", "3"),
            (4, "boats", "0"),
        ]
    ]
    write(folder / "pixmo_count.parquet", rows)


def pathvqa(folder: Path) -> None:
    rows = [
        {"image": cell(seed, mode), "question": question, "answer": answer}
        for seed, mode, question, answer in [
            (1, "RGB", "is the tumor well circumscribed?", "yes"),
            (1, "RGB", "what does this image show?", "crescent formation in a glomerulus"),
            (2, "L", "does this image show Barrett's oesophagus?", "no"),
            (3, "RGBA", "how many cysts are seen?", "3"),
        ]
    ]
    write(folder / "pathvqa.parquet", rows)


def textvqa(folder: Path) -> None:
    rows = [
        {
            "image_id": "0054c91397f2fe05",
            "question_id": 34602 + k,
            "question": question,
            "question_tokens": question.split(),
            "image": cell(7, mode),
            "image_width": 32,
            "image_height": 24,
            "answers": answers,
            "ocr_tokens": ["KONA", "Est."],
            "set_name": "val",
        }
        for k, (question, mode, answers) in enumerate(
            [
                ("what brand is on the Mug?", "RGB", ["kona"] * 7 + ["kona coffee"] * 3),
                ("what year?", "RGB", ["1998"] * 3 + ["98", "1989", "no", "x", "y", "z", "w"]),
                ("is that café open?", "P", ["yes"] * 6 + ["no"] * 4),
            ]
        )
    ]
    write(folder / "textvqa.parquet", rows)


def clock(name: str) -> Callable[[Path], None]:
    """The three clock sets share their schema."""

    def make(folder: Path) -> None:
        question = "What time does the clock show in this image?"
        rows = [
            {"image": cell(11), "question": f"{question}\n<image>", "answer": "03:05"},
            {"image": cell(12), "question": f"{question} <image>", "answer": "12:00"},
            {"image": cell(13, "exif"), "question": question, "answer": "10:59"},
        ]
        write(folder / f"{name}.parquet", rows)

    return make


def ai2d(folder: Path) -> None:
    rows = [
        {"question": question, "options": options, "answer": answer, "image": cell(seed)}
        for seed, question, options, answer in [
            (1, "Which letter marks the pupa?", ["A", "B", "C", "D"], "2"),
            (1, "What eats grass?", ["owl", "mouse", "owl and fox", "none of these"], "1"),
            (2, "Noon temperature?", ["20 °C", "25.5 °C", "-5 °C", "0 °C"], "3"),
        ]
    ]
    write(folder / "ai2d.parquet", rows)


def chartqa(folder: Path) -> None:
    rows = [
        {"type": kind, "question": question, "answer": answer, "image": cell(seed)}
        for seed, kind, question, answer in [
            (1, "human_test", "What is the value for 2014?", "14"),
            (1, "augmented_test", "What is the share of tea?", "62.5%"),
            (2, "human_test", "Is the blue bar longer?", "Yes"),
            (3, "human_test", "Which two lead?", "[Peru, Chile]"),
            (4, "augmented_test", "How many were sold?", "0"),
        ]
    ]
    write(folder / "chartqa.parquet", rows)


def docvqa(folder: Path) -> None:
    rows = [
        {
            "questionId": str(49153 + k),
            "question": question,
            "question_types": ["handwritten"],
            "image": cell(5, "L"),
            "docId": 14465,
            "ucsf_document_id": "pybv0228",
            "ucsf_document_page_no": page,
            "answers": answers,
            "data_split": "val",
        }
        for k, (question, page, answers) in enumerate(
            [
                ("What is the date on the memo?", "81", ["January 4, 1987", "1/4/87"]),
                ("What is the ‘actual’ value?", "81", ["0.28"]),
                ("Who signed?", "82", ["T. J. Müller"]),
            ]
        )
    ]
    write(folder / "docvqa.parquet", rows)


def infovqa(folder: Path) -> None:
    rows = [
        {
            "questionId": str(98313 + k),
            "question": question,
            "answers": answers,
            "answer_type": ["single span"],
            "image": cell(6),
            "image_url": "https://example.invalid/a.jpeg",
            "operation/reasoning": [],
            "ocr": "x" * 50,
            "data_split": "val",
        }
        for k, (question, answers) in enumerate(
            [
                ("How many countries ban it?", ["17", "seventeen"]),
                ("Which two apps lead?", ["Facebook, Instagram", "Instagram, Facebook"]),
            ]
        )
    ]
    write(folder / "infovqa.parquet", rows, **{"operation/reasoning": pa.list_(pa.string())})


def realworldqa(folder: Path) -> None:
    ask = "Please answer directly with only the letter of the correct option and nothing else."
    rows = [
        {"image": cell(seed, mode), "question": question, "answer": answer}
        for seed, mode, question, answer in [
            (1, "RGB", f"Which is larger?\nA. The van\nB. The bike\nC. Equal\n{ask}", "C"),
            (2, "CMYK", "How many?\nPlease answer directly with a single word or number.", "2"),
            (3, "gif", " Is it wet?\nPlease answer directly with a single word or number. ", "Yes"),
        ]
    ]
    write(folder / "realworldqa.parquet", rows)


def seedbench(folder: Path) -> None:
    rows = [
        {
            "answer": answer,
            "choice_a": "One",
            "choice_b": "Two",
            "choice_c": "Three",
            "choice_d": "A dog",
            "data_id": "1454426_2591111986",
            "data_type": kind,
            "question": "How many towels are in the image?",
            "question_id": str(101669 + k),
            "question_type_id": 5,
            "image": [cell(k) for k in range(frames)],
            "segment": [],
        }
        for k, (answer, kind, frames) in enumerate(
            [("A", "image", 1), ("D", "image", 1), ("B", "video", 3)]
        )
    ]
    kinds = {"image": pa.list_(IMAGE), "segment": pa.list_(pa.float64())}
    write(folder / "seedbench.parquet", rows, **kinds)


def scienceqa(folder: Path) -> None:
    rows = [
        {
            "image": cell(seed),
            "question": question,
            "choices": choices,
            "answer": answer,
            "hint": hint,
            "task": "closed choice",
            "grade": "grade4",
            "subject": "natural science",
            "topic": "physics",
            "category": "Magnets",
            "skill": "Compare magnitudes",
            "lecture": "",
            "solution": "",
        }
        for seed, question, choices, answer, hint in [
            (1, "Which is hard?", ["glass", "yarn"], 0, ""),
            (1, "Pairs?", ["Pair 1.", "Pair 2.", "The same."], 2, "Two pairs of magnets.\nN, S."),
            (2, "Select the newt.", ["toad", "crocodile", "salmon", "owl", "newt"], 4, ""),
        ]
    ]
    write(folder / "scienceqa.parquet", rows, answer=pa.int8())


def mmstar(folder: Path) -> None:
    rows = [
        {
            "index": k,
            "question": question,
            "image": picture(k),
            "answer": answer,
            "category": "math",
            "l2_category": l2,
            "meta_info": {"source": "MMMU", "split": "val", "image_path": path},
        }
        for k, (question, answer, l2, path) in enumerate(
            [
                ("Find x.\nOptions: A: 30°, B: 45°, C: 60°, D: 90°", "C", "geometry", "a.jpg"),
                ("Scene?\nOptions: A: Market, old, B: Forest", "A", "scene", "a.jpg"),
                (" Outdoors? Please answer yes or no.\nOptions: A: yes, B: no ", "B", "scene", ""),
            ]
        )
    ]
    write(folder / "mmstar.parquet", rows, image=pa.binary())


def ocrbench(folder: Path) -> None:
    rows = [
        {
            "dataset": dataset,
            "question": question,
            "question_type": "Regular Text Recognition",
            "answer": answer,
            "image": cell(seed, mode),
        }
        for seed, mode, dataset, question, answer in [
            (1, "RGB", "IIIT5K", "what is written in the image?", ["CENTRE"]),
            (2, "I;16", "FUNSD", "what is the total? ", ["RM 31.00", "31.00"]),
            (3, "1", "HME100k", "Write the formula in LaTeX.", ["\\frac { 1 } { 2 } x + y"]),
        ]
    ]
    write(folder / "ocrbench.parquet", rows)


def mmmu(folder: Path) -> None:
    def row(name: str, question: str, options: str, answer: str, kind: str, n: int) -> dict:
        images = {f"image_{k}": cell(k) if k <= n else None for k in range(1, 8)}
        facts = {"id": name, "question": question, "options": options, "explanation": ""}
        more = {"answer": answer, "question_type": kind, "subfield": "Art", "img_type": "['Plots']"}
        return {**facts, **images, **more, "topic_difficulty": "Easy"}

    choice = "multiple-choice"
    rows = [
        row("validation_Art_1", "<image 1> Which style?", "['Dada', \"O'Keeffe\"]", "B", choice, 1),
        row(
            "validation_History_5",
            "The poster <image 1> is about",
            "['War bonds', 'Both <image 2> and <image 3>', 'None']",
            "A",
            choice,
            3,
        ),
        row("validation_Math_6", "In <image 1>, find x.", "[]", "['24/7', '3.429']", "open", 1),
    ]
    write(folder / "mmmu.parquet", rows)


def pope(folder: Path) -> None:
    rows = [
        {
            "id": str(k),
            "question_id": str(k + 1),
            "question": f"Is there a {what} in the image?",
            "answer": answer,
            "image_source": "COCO_val2014_000000310196",
            "image": cell(4),
            "category": category,
        }
        for category in ("random", "adversarial")
        for k, (what, answer) in enumerate([("snowboard", "yes"), ("chair", "no")])
    ]
    write(folder / "pope.parquet", rows)


def gqa(folder: Path) -> None:
    rows = [
        {
            "id": f"2020{k}",
            "imageId": image,
            "question": question,
            "answer": answer,
            "fullAnswer": f"The answer is {answer}.",
        }
        for k, (image, question, answer) in enumerate(
            [
                ("n1", "Is the sky dark?", "yes"),
                ("n1", "Wearing?", "t-shirt"),
                ("n2", "Who?", "man"),
            ]
        )
    ]
    write(folder / "gqa/testdev_balanced_instructions/testdev-00000-of-00001.parquet", rows)
    images = [{"id": name, "image": cell(k)} for k, name in enumerate(("n2", "n1"))]
    write(folder / "gqa/testdev_balanced_images/testdev-00000-of-00001.parquet", images)


def vqav2(folder: Path) -> None:
    def ten(answers: list[str]) -> list[dict[str, Any]]:
        return [
            {"answer": answer, "answer_confidence": "yes", "answer_id": k + 1}
            for k, answer in enumerate(answers)
        ]

    rows = [
        {
            "question_type": "how",
            "multiple_choice_answer": answers[0],
            "answers": ten(answers),
            "image_id": 500,
            "answer_type": kind,
            "question_id": 500000 + k,
            "question": question,
            "image": cell(8),
        }
        for k, (question, kind, answers) in enumerate(
            [
                ("Is this man a surfer?", "yes/no", ["yes"] * 9 + ["no"]),
                ("How many sit?", "number", ["4"] * 4 + ["3", "2", "many", "5", "6", "7"]),
                ("How much is it?", "other", ["$2.50"] * 6 + ["2.50"] * 4),
            ]
        )
    ]
    write(folder / "vqav2.parquet", rows)


def mme(folder: Path) -> None:
    rows = [
        {
            "question_id": picture_id,
            "image": cell(seed),
            "question": f"{question} Please answer yes or no.",
            "answer": answer,
            "category": picture_id.split("/")[0],
        }
        for seed, picture_id, question, answer in [
            (1, "existence/0000.png", "Is there a bicycle in this image?", "Yes"),
            (1, "existence/0000.png", "Is there a sofa in this image?", "No"),
            (2, "OCR/0004.png", 'Is the word in the logo "firm"?', "No"),
            (2, "OCR/0004.png", 'Is the word in the logo "fern"?', "Yes"),
        ]
    ]
    write(folder / "mme.parquet", rows)


def mmbench(folder: Path) -> None:
    rows = [
        {
            "index": index,
            "question": "Which fruit is shown?",
            "hint": hint,
            "answer": answer,
            "A": first,
            "B": second,
            "C": "nan",
            "D": "nan",
            "category": "object_localization",
            "L2-category": "finegrained_perception (instance-level)",
            "source": "ours",
            "comment": "nan",
            "split": "dev",
            "image": cell(1),
        }
        for index, hint, answer, first, second in [
            (12, "nan", "B", "apple", "banana"),
            (1000012, "nan", "A", "banana", "apple"),
            (13, "Look closely.", "A", "kiwi", "fig"),
        ]
    ]
    write(folder / "mmbench.parquet", rows)


def countbench(folder: Path) -> None:
    rows = [
        {"image": cell(k), "question": question, "text": caption, "number": number}
        for k, question, caption, number in [
            (1, "How many cups are there in the image?", "Three cups on a shelf", 3),
            (2, " How many birds are there in the image? ", "A flock of ten birds, at dawn", 10),
        ]
    ]
    write(folder / "countbench.parquet", rows)


def tallyqa(folder: Path) -> None:
    (folder / "tallyqa/VG_100K").mkdir(parents=True)
    (folder / "tallyqa/VG_100K/1.png").write_bytes(picture(1))
    rows = [
        {
            "image": "VG_100K/1.png",
            "answer": answer,
            "data_source": "ours",
            "question": question,
            "image_id": 1,
            "question_id": 30094992 + k,
            "issimple": simple,
        }
        for k, (question, answer, simple) in enumerate(
            [("How many lamps?", 0, True), ("How many people wear a hat?", 2, False)]
        )
    ]
    (folder / "tallyqa/test.json").write_text(json.dumps(rows))


MAKERS = (
    *(cub200, pixmo_count, pathvqa, textvqa),
    *(ai2d, chartqa, docvqa, infovqa, realworldqa, seedbench, scienceqa, mmstar),
    *(ocrbench, mmmu, pope, gqa, vqav2, mme, mmbench, countbench, tallyqa),
    *map(clock, ("timeclock", "cococlock", "openimgclock")),
)


def make(folder: Path) -> None:
    """All fixtures, into an empty folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for maker in MAKERS:
        maker(folder)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    shutil.rmtree(target, ignore_errors=True)
    make(target)
