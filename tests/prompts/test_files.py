import json

import numpy as np
import pytest

from lightning_samseg.errors import UserError
from lightning_samseg.prompts.files import PromptFile

IMAGES = {"ETIS/1": ["1.png", "1"], "Kvasir/1": ["1.png", "1"], "Kvasir/cju": ["cju.jpg", "cju"], "volume_004": []}


SIZE = (60, 50)


def write(path, text):
    path.write_text(text)
    return path


def test_boxes_of_a_csv_file(tmp_path):
    text = "label,image,x0,y0,x1,y1\npolyp,cju.jpg,1,2,30.5,40\n,Kvasir/1,0,0,5,5\n,cju,7,8,9,10\n"
    file = PromptFile(write(tmp_path / "boxes.csv", text), "box")
    assert file.bind(IMAGES) == 2
    np.testing.assert_array_equal(file.prompts("Kvasir/cju", SIZE), [[1, 2, 30.5, 40], [7, 8, 9, 10]])
    np.testing.assert_array_equal(file.prompts("Kvasir/1", SIZE), [[0, 0, 5, 5]])
    assert file.prompts("ETIS/1", SIZE).shape == (0, 4)


def test_points_of_a_csv_file_and_slices(tmp_path):
    file = PromptFile(write(tmp_path / "points.csv", "\ufeffimage,x,y\nvolume_004,3,4\n"), "point")
    assert file.bind(IMAGES) == 3
    np.testing.assert_array_equal(file.prompts("volume_004", SIZE), [[3, 4]])


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
    np.testing.assert_array_equal(boxes.prompts("Kvasir/cju", SIZE), [[10, 20, 15, 26]])
    np.testing.assert_array_equal(points.prompts("Kvasir/cju", SIZE), [[1, 2], [8, 9]])
    assert points.prompts("ETIS/1", SIZE).shape == (0, 2)


@pytest.mark.parametrize(
    "text",
    [
        "image, x0, y0, x1, y1\n cju.jpg , 1, 2, 3, 4\n",
        "\ufeffImage;X0;Y0;X1;Y1\r\ncju;1;2;3;4\r\n",
        "\n\nx0\timage\ty0\tx1\ty1\tlabel\n\n1\tcju\t2\t3\t4\tpolyp\n",
        "image,x0,y0,x1,y1\nsomewhere/else/cju.jpg,1,2,3,4\n",
        "image,x0,y0,x1,y1\nC:\\data\\cju.jpg,1,2,3,4\n",
        "image,x0,y0,x1,y1\n./Kvasir/cju,1,2,3,4\n",
        '\ufeff{"images": [{"id": 7, "file_name": "train/cju.jpg", "width": 50, "height": 60}],'
        '"annotations": [{"image_id": 7, "bbox": [1, 2, 2, 2], "segmentation": {"counts": "abc"}}]}',
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.json", "a.txt"])
def test_ways_to_write_a_box(tmp_path, text, name):
    file = PromptFile(write(tmp_path / name, text), "box")
    file.bind(IMAGES)
    np.testing.assert_array_equal(file.prompts("Kvasir/cju", SIZE), [[1, 2, 3, 4]])


def test_names_of_any_kind(tmp_path):
    images = {"läsion": ["läsion.png"], "gr\udcf6sse": ["gr\udcf6sse.png"], "case #1": ["case #1.png"]}
    text = "image,x,y\nla\u0308sion.png,1,1\ngr\udcf6sse.png,2,2\ngr\\xf6sse,3,3\ncase #1,4,4\n"
    path = tmp_path / "points.csv"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    file = PromptFile(path, "point")
    assert file.bind(images) == 0
    assert [file.prompts(key, SIZE).tolist() for key in images] == [[[1, 1]], [[2, 2], [3, 3]], [[4, 4]]]


def test_a_folder_in_front_is_left_out_only_for_all_and_never_in_silence(tmp_path, capsys):
    text = "image,x,y\nimages/cju.jpg,1,1\nimages/ETIS/1,2,2\n"
    file = PromptFile(write(tmp_path / "a.csv", text), "point")
    assert file.bind(IMAGES) == 2
    assert "a.csv: its images are looked for without the folder images" in capsys.readouterr().out
    for other in ("Kvasir/cju", "images/nobody"):
        file = PromptFile(write(tmp_path / "a.csv", f"{text}{other},3,3\n"), "point")
        with pytest.raises(UserError, match=r"line 2: 'images/cju.jpg' is no image"):
            file.bind(IMAGES)


def test_prompts_and_their_image(tmp_path, capsys):
    def of(place, kind="box", size=SIZE):
        head = "x0,y0,x1,y1" if kind == "box" else "x,y"
        file = PromptFile(write(tmp_path / "a.csv", f"image,{head}\n\ncju,{place}\n"), kind)
        file.bind(IMAGES)
        return file.prompts("Kvasir/cju", size)

    assert of("0,0,50,60").shape == (1, 4)
    assert of("-1,-0.5,50.9,61").shape == (1, 4)
    assert of("49.9,59.9", "point").shape == (1, 2)
    assert capsys.readouterr().out == ""
    assert of("-3,2,20,20").shape == (1, 4)
    assert "line 3: the box reaches over the border of cju (50 x 60 pixels) and is cut" in capsys.readouterr().out
    for place in ("50,0,60,9", "0,60,9,70", "-9,0,0,9", "0,-9,9,0"):
        with pytest.raises(UserError, match=r"a\.csv, line 3: the box lies outside the image cju"):
            of(place)
    for place in ("50,0", "0,60", "-1,0", "0,-0.5"):
        with pytest.raises(UserError, match=r"a\.csv, line 3, cju\S*: the point lies outside the image"):
            of(place, "point")


def test_coco_knows_the_size_that_was_drawn_on(tmp_path):
    image = '{"images": [{"id": 7, "file_name": "cju.jpg", "width": 100, "height": 120}], "annotations": [%s]}'
    file = PromptFile(write(tmp_path / "a.json", image % '{"image_id": 7, "bbox": [1, 2, 3, 4]}'), "box")
    file.bind(IMAGES)
    assert file.prompts("Kvasir/cju", (120, 100)).shape == (1, 4)
    with pytest.raises(UserError, match=r"annotation 0: drawn on(.|\n)*50 x 60 pixels(.|\n)*found: 100 x 120"):
        file.prompts("Kvasir/cju", SIZE)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "image,x0,y0,x1\nb,1,2,3\n", "a.csv has no column y1"),
        ("a.csv", "image,x,y\nb,1,2\n", "no column x0(.|\n)*set --model.prompter.kind point if the file holds points"),
        ("a.csv", "cju,1,2,3,4\n", "no column image(.|\n)*found: cju,1,2,3,4"),
        ("a.csv", "image,x0,y0,x1,y1\n\n\ncju,1,2,three,4\n", "line 4: not a box(.|\n)*found: 1,2,three,4"),
        ("a.csv", "image;x0;y0;x1;y1\ncju;1,5;2;3;4\n", "line 2: not a box(.|\n)*decimal point(.|\n)*found: 1,5,2,3,4"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,1,2,nan,4\n", "line 2: not a box"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,1,2,inf,4\n", "line 2: not a box"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,1,2\n", "line 2 has not as many cells"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,9,2,3,4\n", "line 2: not a box(.|\n)*x0 < x1"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,1,2,1,4\n", "line 2: not a box(.|\n)*width, height"),
        ("a.csv", "image,x0,y0,x1,y1\n,1,2,3,4\n", "line 2: no image is named"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,1,2,3,4\n\ncju,1,2,3,4\n", "line 4: the same box as (.|\n)*line 2"),
        ("a.csv", "image,x0,y0,x1,y1\ncju,0.1,0.2,0.5,1\n", "gives no pixels(.|\n)*from 0.1 to 1(.|\n)*multiply"),
        ("a.csv", "image,x0,y0,x1,y1\n", "holds no box"),
        ("a.csv", "", "no column image"),
        ("a.csv", "image,x0,y0,x1,y1\n\nnobody.png,1,2,3,4\n", "line 3: 'nobody.png' is no image of the stream"),
        ("a.csv", "image,x0,y0,x1,y1\n1.png,1,2,3,4\n", "'1.png' means several images: ETIS/1, Kvasir/1"),
        ("a.csv", "PK\x03\x04", "a.csv is not UTF-8 text(.|\n)*Excel"),
        ("a.json", COCO % '{"image_id": 7, "bbox": [1, 2, 3]}', "annotation 0: not a box"),
        ("a.json", COCO % '{"image_id": 7, "bbox": 3}', "annotation 0: not a box"),
        ("a.json", COCO % '{"image_id": 7, "bbox": [1, 2, 0, 4]}', "annotation 0: not a box"),
        ("a.json", COCO % '{"image_id": 7, "bbox": [1, 2, NaN, 4]}', "annotation 0: not a box"),
        ("a.json", COCO % "3", "cannot be read as prompts"),
        ("a.json", "{", "cannot be read as prompts"),
        ("a.json", "[" * 100000, "cannot be read as prompts"),
        ("a.json", '[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "cannot be read as prompts"),
        ("a.json", '{"images": []}', "cannot be read as prompts"),
        ("a.json", '{"images": [], "annotations": []}', "holds no box"),
        ("a.json", '{"images": [], "annotations": [{"image_id": [1]}]}', "annotation 0: there is no image"),
        ("a.json", '{"images": [{"id": 1, "file_name": "b"}], "annotations": [{"image_id": 1}]}', "not a box"),
    ],
)
def test_mistakes(tmp_path, name, text, message):
    with pytest.raises(UserError, match=message):
        PromptFile(write(tmp_path / name, text), "box").bind(IMAGES)


def test_points_are_called_points(tmp_path):
    for text, message in (
        ("image,x,y\ncju,1,b\n", "line 2: not a point"),
        ("image,x,y\n", "holds no point"),
        ("image,x0,y0,x1,y1\ncju,1,2,3,4\n", "no column x(.|\n)*set --model.prompter.kind box if the file holds boxes"),
        (COCO % '{"image_id": 7, "keypoints": [1, 2]}', "annotation 0: no keypoints"),
        (COCO % '{"image_id": 7, "bbox": [1, 2, 3, 4]}', "holds no point"),
    ):
        with pytest.raises(UserError, match=message):
            PromptFile(write(tmp_path / "a.csv", text), "point").bind(IMAGES)


def test_the_option_in_use_is_named(tmp_path):
    path = write(tmp_path / "a.csv", "image,x,y\ncju,1,2\n")
    with pytest.raises(UserError, match="set --prompt point if"):
        PromptFile(path, "box", "--prompts", "--prompt")
    with pytest.raises(UserError, match="give boxes, by which the run of this checkpoint was prompted"):
        PromptFile(path, "box", "--prompts", None)


def test_missing(tmp_path):
    with pytest.raises(UserError, match="no prompt file"):
        PromptFile(tmp_path / "none.csv", "box")
