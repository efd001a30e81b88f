"""The micro study's pictures and questions: functions of their seed, with true answers."""

from __future__ import annotations

import numpy as np
import pytest

from harness.micro import pictures, skills

ALL = (*skills.HELD_OUT, *skills.TARGETS)
VIEWED = ("species", "path")


@pytest.mark.parametrize("skill", ALL)
def test_same_seed_same_picture_and_questions(skill: str) -> None:
    first, again, other = (
        skills.ask(skill, np.random.default_rng(seed), "test") for seed in (3, 3, 4)
    )
    assert first.questions == again.questions
    assert first.image.tobytes() == again.image.tobytes()
    assert first.image.tobytes() != other.image.tobytes()
    assert first.image.size == (pictures.SIDE, pictures.SIDE)
    assert {question.skill for question in first.questions} == {skill}


@pytest.mark.parametrize("skill", ALL)
def test_all_words_are_in_the_vocabulary(skill: str) -> None:
    known = set(skills.vocabulary())
    rng = np.random.default_rng(0)
    for _ in range(50):
        for question in skills.ask(skill, rng).questions:
            text = question.prompt.replace("?", " ?").replace(".", " .")
            assert set(text.split()) <= known
            assert question.answer in known


@pytest.mark.parametrize("skill", VIEWED)
def test_field_pictures_ask_the_same_of_other_pictures(skill: str) -> None:
    book, field = (
        skills.ask(skill, np.random.default_rng(9), "train", view) for view in ("book", "field")
    )
    assert {q.text for q in book.questions} == {q.text for q in field.questions}
    assert book.image.tobytes() != field.image.tobytes()


def test_scenes_show_what_their_answers_say() -> None:
    rng = np.random.default_rng(1)
    for _ in range(100):
        image, things = pictures.scene(rng, 4)
        pixels = np.asarray(image)
        for thing in things:
            ys, xs = np.nonzero((pixels == pictures.COLORS[thing.color]).all(axis=2))
            longest = max(np.ptp(ys), np.ptp(xs)) + 1
            # The longest small thing (a disc of radius 5) has 11 pixels, the shortest large one
            # (a square of radius 8) 13.
            assert 8 <= longest <= 18
            assert (longest > 12) == (thing.size == "large"), (thing, longest)
        assert len({t.color for t in things}) == len({t.shape for t in things}) == 4


def test_yes_means_that_the_pair_is_there() -> None:
    rng = np.random.default_rng(2)
    yes = 0
    for _ in range(200):
        state = rng.bit_generator.state
        n = int(rng.integers(2, 4))
        _, things = pictures.scene(rng, n)
        rng.bit_generator.state = state
        pairs = {f"{thing.color} {thing.shape}" for thing in things}
        for question in skills.ask("presence", rng).questions:
            asked = question.text.removeprefix("Is there a ").removesuffix("?")
            assert (question.answer == "yes") == (asked in pairs)
            yes += question.answer == "yes"
    assert 150 < yes < 250  # of 400


def test_one_option_is_there_and_the_letter_names_it() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        state = rng.bit_generator.state
        _, things = pictures.scene(rng, int(rng.integers(2, 4)))
        rng.bit_generator.state = state
        pairs = {f"{thing.color} {thing.shape}" for thing in things}
        for question in skills.ask("choice", rng).questions:
            right = skills.LETTERS.index(question.answer)
            assert question.choices[right] in pairs
            assert question.choices[1 - right] not in pairs


@pytest.mark.parametrize("n", range(1, 10))
def test_counted_dots_are_apart(n: int) -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(n)
    for _ in range(10):
        pixels = np.asarray(pictures.dots(rng, n))
        inked = (pixels[..., None, :] == list(pictures.COLORS.values())).all(-1).any(-1)
        assert ndimage.label(inked)[1] == n


def test_test_digits_are_never_trained_on() -> None:
    train, _ = pictures.digit_scans("train")
    test, labels = pictures.digit_scans("test")
    assert len(train) + len(test) == 1797
    seen = {scan.tobytes() for scan in train}
    assert not any(scan.tobytes() in seen for scan in test)
    assert set(labels) == set(range(10))


def test_species_differ_and_every_body_has_four() -> None:
    looks = list(pictures.SPECIES.values())
    assert len(set(looks)) == len(looks) == 12
    bodies = [shape for shape, _, _ in looks]
    assert sorted(bodies.count(shape) for shape in set(bodies)) == [4, 4, 4]


def test_unknown_names_are_refused() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match="no texture 'tartan'"):
        pictures.tissue(rng, "tartan")
    with pytest.raises(ValueError, match="no outline for 'blob'"):
        pictures.outline("blob", 0, 0, 1)
