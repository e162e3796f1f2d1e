"""The paper's 27 data sets (Table 9) and the others it reports on: what they are, where they are.

A literal table. Sizes and metrics are the paper's; what CLIP_benchmark's and DataComp's copies have
instead is in the notes, since a number belongs to a protocol. ``data_sets`` opens them and prints
the table; ``prompts`` has their class names and templates.
"""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """One data set.

    Attributes:
      title: as people call it.
      kind: "classification", "multilabel" or "retrieval".
      classes: K as in the paper; 0 for retrieval.
      train: pictures the paper trains probes on, those for validation among them.
      val: official validation pictures among ``train``; 0: split some off.
      test: pictures that are scored.
      metric: the paper's, by its key in our results.
      home: where it comes from.
      tfds: its name in TFDS, if that has what the protocol needs.
      tfds_splits: our split -> TFDS's, where the names differ.
      tfds_label: TFDS's feature with the label or, with a slash, the captions.
      webdataset: its name in CLIP_benchmark's list; the hub has ``clip-benchmark/wds_NAME``, with
        "-" for "/".
      datacomp: its key in DataComp's task list; the hub has ``djghosh/wds_NAME_test``.
      notes: what to look out for.
      of_paper: one of the 27.
    """

    title: str
    kind: str
    classes: int
    train: int
    val: int
    test: int
    metric: str
    home: str
    tfds: str = ""
    tfds_splits: dict[str, str] = dataclasses.field(default_factory=dict)
    tfds_label: str = "label"
    webdataset: str = ""
    datacomp: str = ""
    notes: tuple[str, ...] = ()
    of_paper: bool = True


def _classes(
    title: str, classes: int, train: int, val: int, test: int, metric: str, home: str, **more: Any
) -> Entry:
    return Entry(title, "classification", classes, train, val, test, metric, home, **more)


TOP1, RECALL = "top1", "mean_per_class_recall"
_OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
_IMAGENET = "https://image-net.org/download-images"

CATALOG: dict[str, Entry] = {
    "Food101": _classes(
        "Food-101", 101, 75_750, 0, 25_250, TOP1,
        "https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        tfds="food101", tfds_splits={"test": "validation"}, datacomp="food101",
        notes=("TFDS calls the test split validation", "the paper's table prints 102 classes"),
    ),
    "CIFAR10": _classes(
        "CIFAR-10", 10, 50_000, 0, 10_000, TOP1, "https://www.cs.toronto.edu/~kriz/cifar.html",
        tfds="cifar10", webdataset="vtab/cifar10", datacomp="cifar10",
    ),
    "CIFAR100": _classes(
        "CIFAR-100", 100, 50_000, 0, 10_000, TOP1, "https://www.cs.toronto.edu/~kriz/cifar.html",
        tfds="cifar100", webdataset="vtab/cifar100", datacomp="vtab/cifar100",
    ),
    "Birdsnap": _classes(
        "Birdsnap", 500, 42_283, 0, 2_149, TOP1,
        "Berg et al., CVPR 2014 (a list of web addresses)",
        notes=("many addresses are dead by now: give n with the result",),
    ),
    "SUN397": _classes(
        "SUN397", 397, 19_850, 0, 19_850, TOP1, "https://vision.princeton.edu/projects/2010/SUN/",
        tfds="sun397/standard-part1-120k", webdataset="sun397", datacomp="sun397",
        notes=(
            "the paper's sizes are those of one of ten official partitions",
            "TFDS has the partitions in 120,000 pixels a picture only",
            "DataComp scores all 108,754 pictures",
        ),
    ),
    "StanfordCars": _classes(
        "Stanford Cars", 196, 8_144, 0, 8_041, TOP1,
        "https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
        tfds="cars196", webdataset="cars", datacomp="cars",
        notes=("the home page and its files have been offline",),
    ),
    "FGVCAircraft": _classes(
        "FGVC Aircraft", 100, 6_667, 3_333, 3_333, RECALL, f"{_OXFORD}/fgvc-aircraft/",
        webdataset="fgvc_aircraft", datacomp="fgvc_aircraft",
        notes=("the 100 variants, not families or manufacturers",),
    ),
    "PascalVOC2007": Entry(
        "Pascal VOC 2007", "multilabel", 20, 5_011, 2_510, 4_952, "mean_average_precision",
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/",
        tfds="voc/2007", tfds_label="labels", webdataset="voc2007_multilabel", datacomp="voc2007",
        notes=(
            "the paper: several classes a picture, 11-point mAP",
            "DataComp and CLIP_benchmark's voc2007: 14,976 crops of objects, top-1, 6 to 17 lower",
            "TFDS's labels count objects marked difficult too; labels_no_difficult does not",
        ),
    ),
    "DescribableTextures": _classes(
        "Describable Textures", 47, 3_760, 1_880, 1_880, TOP1, f"{_OXFORD}/dtd/",
        tfds="dtd", webdataset="vtab/dtd", datacomp="vtab/dtd",
        notes=("the first of ten official splits",),
    ),
    "OxfordPets": _classes(
        "Oxford-IIIT Pets", 37, 3_680, 0, 3_669, RECALL, f"{_OXFORD}/pets/",
        tfds="oxford_iiit_pet", webdataset="vtab/pets", datacomp="vtab/pets",
    ),
    "Caltech101": _classes(
        "Caltech-101", 102, 3_060, 0, 6_085, RECALL, "https://doi.org/10.22002/D1.20086",
        tfds="caltech101", webdataset="vtab/caltech101", datacomp="vtab/caltech101",
        notes=(
            "102 classes with the background class, which some copies leave out",
            "there is no official split: 30 pictures a class are drawn for training",
        ),
    ),
    "Flowers102": _classes(
        "Oxford Flowers 102", 102, 2_040, 1_020, 6_149, RECALL, f"{_OXFORD}/flowers/102/",
        tfds="oxford_flowers102", webdataset="vtab/flowers", datacomp="vtab/flowers",
    ),
    "MNIST": _classes(
        "MNIST", 10, 60_000, 0, 10_000, TOP1, "http://yann.lecun.com/exdb/mnist/",
        tfds="mnist", webdataset="mnist", datacomp="mnist",
        notes=("published results differ by up to 26 points between protocols",),
    ),
    "FacialEmotionRecognition2013": _classes(
        "FER2013", 8, 32_140, 0, 3_574, TOP1, "https://www.kaggle.com/datasets/msambare/fer2013",
        webdataset="fer2013",
        notes=(
            "the paper prints 8 classes, its prompts have 7, some with several names",
            "sizes differ from the challenge's 28,709 + 3,589 + 3,589",
            "copies on Kaggle and CLIP_benchmark's test on both test sets: 7,178",
        ),
    ),
    "STL10": _classes(
        "STL-10", 10, 1_000, 0, 8_000, TOP1, "https://ai.stanford.edu/~acoates/stl10/",
        tfds="stl10", webdataset="stl10", datacomp="stl10",
        notes=("probes: the mean over ten official folds of 1,000; other copies have all 5,000",),
    ),
    "EuroSAT": _classes(
        "EuroSAT", 10, 10_000, 0, 5_000, TOP1, "https://github.com/phelber/EuroSAT",
        webdataset="vtab/eurosat", datacomp="vtab/eurosat",
        notes=(
            "the paper's split of the 27,000 pictures is not published, TFDS has one split",
            "VTAB's (CLIP_benchmark, DataComp): 16,200 + 5,400, test 5,400",
        ),
    ),
    "RESISC45": _classes(
        "RESISC45", 45, 3_150, 0, 25_200, TOP1,
        "http://www.escience.cn/people/JunweiHan/NWPU-RESISC45.html",
        webdataset="vtab/resisc45", datacomp="vtab/resisc45",
        notes=(
            "the paper's split of the 31,500 pictures is not published, TFDS has one split",
            "VTAB's (CLIP_benchmark, DataComp): 18,900 + 6,300, test 6,300",
            "18 templates in the paper, 4 in CLIP_benchmark: 4 to 9 points less",
        ),
    ),
    "GTSRB": _classes(
        "GTSRB", 43, 26_640, 0, 12_630, TOP1, "https://benchmark.ini.rub.de/gtsrb_dataset.html",
        webdataset="gtsrb", datacomp="gtsrb",
        notes=("26,640 is the challenge's training set; later copies have 39,209",),
    ),
    "KITTI": _classes(
        "KITTI distance", 4, 6_770, 0, 711, TOP1, "http://www.cvlibs.net/datasets/kitti/",
        webdataset="vtab/kitti_closest_vehicle_distance",
        datacomp="vtab/kitti_closest_vehicle_distance",
        notes=(
            "classes are VTAB's ranges of the distance of the closest vehicle",
            "published results differ by up to 25 points between protocols",
        ),
    ),
    "Country211": _classes(
        "Country211", 211, 43_200, 10_550, 21_100, TOP1,
        "https://github.com/openai/CLIP/blob/main/data/country211.md",
        webdataset="country211", datacomp="country211",
        notes=("150, 50 and 100 pictures a country are 42,200 + 21,100, not 43,200 as printed",),
    ),
    "PatchCamelyon": _classes(
        "PatchCamelyon", 2, 294_912, 32_768, 32_768, TOP1, "https://github.com/basveeling/pcam",
        tfds="patch_camelyon", webdataset="vtab/pcam", datacomp="vtab/pcam",
        notes=("published results differ by up to 11 points between prompts",),
    ),
    "UCF101": _classes(
        "UCF101", 101, 9_537, 0, 1_794, TOP1, "https://www.crcv.ucf.edu/data/UCF101.php",
        notes=(
            "videos: extract the middle frame of each",
            "the mean over three official splits",
            "the official first test split has 3,783 videos, the paper prints 1,794",
        ),
    ),
    "Kinetics700": _classes(
        "Kinetics-700", 700, 494_801, 0, 31_669, "mean_top1_top5",
        "https://github.com/cvdfoundation/kinetics-dataset",
        notes=("videos: extract the middle frame of each", "the mean of top-1 and top-5"),
    ),
    "CLEVRCounts": _classes(
        "CLEVR counts", 8, 2_000, 0, 500, TOP1, "https://cs.stanford.edu/people/jcjohns/clevr/",
        webdataset="vtab/clevr_count_all", datacomp="vtab/clevr_count_all",
        notes=(
            "how many objects, 3 to 10; the paper's 2,500 pictures are not published",
            "VTAB's (CLIP_benchmark, DataComp): test 15,000",
        ),
    ),
    "HatefulMemes": _classes(
        "Hateful Memes", 2, 8_500, 0, 500, "roc_auc", "https://hatefulmemeschallenge.com/",
        notes=("the challenge's dev set of 500 is what is scored",),
    ),
    "SST2": _classes(
        "Rendered SST2", 2, 7_792, 872, 1_821, TOP1,
        "https://github.com/openai/CLIP/blob/main/data/rendered-sst2.md",
        webdataset="renderedsst2", datacomp="renderedsst2",
    ),
    "ImageNet": _classes(
        "ImageNet", 1000, 1_281_167, 0, 50_000, TOP1, _IMAGENET,
        tfds="imagenet2012", tfds_splits={"test": "validation"},
        webdataset="imagenet1k", datacomp="imagenet1k",
        notes=("the validation split is what is scored", "1,000 edited names, 80 templates"),
    ),
    "ImageNetV2": _classes(
        "ImageNet-V2", 1000, 0, 0, 10_000, TOP1, "https://github.com/modestyachts/ImageNetV2",
        tfds="imagenet_v2/matched-frequency", webdataset="imagenetv2", datacomp="imagenetv2",
        notes=("matched-frequency",), of_paper=False,
    ),
    "ImageNetA": _classes(
        "ImageNet-A", 200, 0, 0, 7_500, TOP1, "https://github.com/hendrycks/natural-adv-examples",
        tfds="imagenet_a", webdataset="imagenet-a", datacomp="imagenet-a",
        notes=("among its own 200 of ImageNet's classes",), of_paper=False,
    ),
    "ImageNetR": _classes(
        "ImageNet-R", 200, 0, 0, 30_000, TOP1, "https://github.com/hendrycks/imagenet-r",
        tfds="imagenet_r", webdataset="imagenet-r", datacomp="imagenet-r",
        notes=("among its own 200 of ImageNet's classes",), of_paper=False,
    ),
    "ImageNetSketch": _classes(
        "ImageNet-Sketch", 1000, 0, 0, 50_889, TOP1,
        "https://github.com/HaohanWang/ImageNet-Sketch",
        tfds="imagenet_sketch", webdataset="imagenet_sketch", datacomp="imagenet_sketch",
        of_paper=False,
    ),
    "ObjectNet": _classes(
        "ObjectNet", 113, 0, 0, 18_574, TOP1, "https://objectnet.dev/",
        webdataset="objectnet", datacomp="objectnet", of_paper=False,
        notes=(
            "the 113 of its 313 classes that ImageNet has too",
            "class names come with the data: OpenAI has not published its own",
            "crop the red border of one pixel; its licence forbids training on it",
        ),
    ),
    "Flickr30k": Entry(
        "Flickr30k", "retrieval", 0, 30_014, 1_014, 1_000, "image_to_text_r@1",
        "https://shannon.cs.illinois.edu/DenotationGraph/",
        webdataset="flickr30k", of_paper=False,
        notes=("Karpathy's split, five captions a picture", 'the paper: "a photo of" in front'),
    ),
    "COCO": Entry(
        "COCO captions", "retrieval", 0, 118_287, 5_000, 5_000, "image_to_text_r@1",
        "https://cocodataset.org/#download",
        tfds="coco_captions", tfds_label="captions/text", webdataset="mscoco_captions",
        of_paper=False,
        notes=(
            "Karpathy's 5,000 test pictures; a few have six or seven captions",
            'the paper: "a photo of" in front',
            "TFDS's builder needs TensorFlow even to be named: give tfds: the prepared folder",
        ),
    ),
}  # fmt: skip
