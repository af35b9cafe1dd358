import pytest

from lejepa_hf.runs.recipe_text import check_key, find_recipe, is_recipe, load_yaml, parse_command_line, read_recipe

TYPES = {"resume": str | None, "seed": int, "rate": float, "names": list[str], "streaming": bool}


@pytest.mark.parametrize("text", ["5e-4", "5.0e-4", "0.0005", ".0005", "+5E-4"])
def test_numbers_as_people_write_them(text):
    assert load_yaml(text) == 5e-4


@pytest.mark.parametrize("text", ["vit", "1.2.3", "e5", "-", "."])
def test_text_stays_text(text):
    assert load_yaml(f"'{text}'") == text and (text == "-" or isinstance(load_yaml(text), str))


def test_an_unknown_key_names_the_nearest():
    check_key("seed", "a file", {"seed"})
    with pytest.raises(ValueError, match="`sede` in a file is not a known key. Did you mean `seed`?"):
        check_key("sede", "a file", {"seed", "steps"})
    with pytest.raises(ValueError, match="not a known key.$"):
        check_key("xyz", "a file", {"seed"})


def test_the_command_line_has_the_types_of_the_keys():
    given = ["--seed=3", "--rate", "1", "--names", "a", "b", "--streaming", "--resume"]
    expected = {"seed": 3, "rate": 1.0, "names": ["a", "b"], "streaming": True, "resume": "auto"}
    assert parse_command_line(given, TYPES) == expected
    for wrong, message in (
        (["--seed"], "`--seed` on the command line has no value"),
        (["--seed", "x"], "`seed` in the command line must be int, got 'x'"),
        (["3"], "'3' on the command line does not belong to a `--key`"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_command_line(wrong, TYPES)


def test_a_file_and_the_command_line_beside_it(tmp_path):
    (tmp_path / "a.yaml").write_text("seed: 1\nrate: 2\n")
    assert find_recipe(tmp_path / "a.yaml") == tmp_path / "a.yaml" and find_recipe("digits/vit_tiny").is_file()
    assert read_recipe(tmp_path / "a.yaml", ["--seed", "5"], TYPES) == ({"seed": 1, "rate": 2.0}, {"seed": 5})


def test_what_names_a_recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    assert is_recipe("digits/vit_tiny") and not is_recipe("photos") and not is_recipe("me/photos")
    with pytest.raises(ValueError, match="The first argument must be a recipe or images, got '--seed'"):
        is_recipe("--seed")
