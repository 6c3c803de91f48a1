import json

import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.files import PromptFile

IMAGES = {"ETIS/1": ["1.png", "1"], "Kvasir/1": ["1.png", "1"], "Kvasir/cju": ["cju.jpg", "cju"], "volume_004": []}


def write(path, text):
    path.write_text(text)
    return path


def test_boxes_of_a_csv_file(tmp_path):
    text = "label,image,x0,y0,x1,y1\npolyp,cju.jpg,1,2,30.5,40\n,Kvasir/1,0,0,5,5\n,cju,7,8,9,10\n"
    file = PromptFile(write(tmp_path / "boxes.csv", text), "box")
    assert file.bind(IMAGES) == 2
    np.testing.assert_array_equal(file.prompts("Kvasir/cju"), [[1, 2, 30.5, 40], [7, 8, 9, 10]])
    np.testing.assert_array_equal(file.prompts("Kvasir/1"), [[0, 0, 5, 5]])
    assert file.prompts("ETIS/1").shape == (0, 4)


def test_points_of_a_csv_file_and_slices(tmp_path):
    file = PromptFile(write(tmp_path / "points.csv", "\ufeffimage,x,y\nvolume_004,3,4\n"), "point")
    assert file.bind(IMAGES) == 3
    np.testing.assert_array_equal(file.prompts("volume_004"), [[3, 4]])


COCO = '{"images": [{"id": 7, "file_name": "cju.jpg"}], "annotations": [%s]}'


def test_coco(tmp_path):
    content = {
        "images": [{"id": 7, "file_name": "cju.jpg"}, {"id": 8, "file_name": "ETIS/1"}],
        "annotations": [
            {"image_id": 7, "bbox": [10, 20, 5, 6], "keypoints": [1, 2, 2, 0, 0, 0, 8, 9, 1]},
            {"image_id": 8, "bbox": [0, 0, 2, 2]},
        ],
    }
    path = write(tmp_path / "coco.json", json.dumps(content))
    boxes, points = PromptFile(path, "box"), PromptFile(path, "point")
    assert (boxes.bind(IMAGES), points.bind(IMAGES)) == (2, 3)
    np.testing.assert_array_equal(boxes.prompts("Kvasir/cju"), [[10, 20, 15, 26]])
    np.testing.assert_array_equal(points.prompts("Kvasir/cju"), [[1, 2], [8, 9]])
    assert points.prompts("ETIS/1").shape == (0, 2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,x0,y0,x1\nb,1,2,3\n", "no column y1 for a box prompt"),
        ("a.json", COCO % '{"image_id": 7, "bbox": [1, 2, 3]}', "annotation 0: not a box"),
        ("a.json", COCO % '{"image_id": 7, "bbox": 3}', "annotation 0: not a prompt"),
        ("a.json", COCO % "3", "cannot be read as prompts"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,1,2,three,4\n", "line 2: not a prompt"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,1,2\n", "line 2: not a prompt"),
        ("a.csv", "image,x0,y0,x1,y1\n", "holds no box"),
        ("a.csv", "", "no column image"),
        ("a.csv", "image,x0,y0,x1,y1\nnobody.png,1,2,3,4\n", "'nobody.png' is no image of the stream"),
        ("a.csv", "image,x0,y0,x1,y1\n1.png,1,2,3,4\n", "'1.png' means several images: ETIS/1, Kvasir/1"),
        ("a.json", "{", "cannot be read as prompts"),
        ("a.json", '{"images": []}', "cannot be read as prompts"),
        ("a.json", '{"images": [], "annotations": [{"image_id": 1}]}', "annotation 0: there is no image"),
        ("a.json", '{"images": [{"id": 1, "file_name": "b"}], "annotations": [{"image_id": 1}]}', "not a prompt"),
    ],
)
def test_mistakes(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        PromptFile(write(tmp_path / name, text), "box").bind(IMAGES)


def test_missing(tmp_path):
    with pytest.raises(UserError, match="no prompt file"):
        PromptFile(tmp_path / "none.csv", "box")
