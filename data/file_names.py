"""Names of dataset files that both the table of datasets and the readers need."""

IDX_FILES = tuple(
    f"{split}-{kind}-ubyte"
    for split in ("train", "t10k")
    for kind in ("images-idx3", "labels-idx1")
)
"""The four files of MNIST and of the datasets in its format."""

MEDMNIST_SIZES = (28, 64, 128, 224)
"""Sides in pixels of the images that MedMNIST has files for."""

MEDMNIST_DEFAULT = 32
"""At this size MedMNIST's original 28-pixel images are enlarged, as MNIST's are."""


def medmnist_files(name: str) -> tuple[str, ...]:
    """Names of the files of a MedMNIST dataset, one for each of MEDMNIST_SIZES."""
    return (f"{name}.npz", *(f"{name}_{size}.npz" for size in MEDMNIST_SIZES[1:]))


def medmnist_file(name: str, size: int) -> str:
    """Name of the file of a MedMNIST dataset to make images of `size` pixels from."""
    return medmnist_files(name)[MEDMNIST_SIZES.index(medmnist_size(size))]


def medmnist_size(size: int) -> int:
    """The smallest stored size that need not be enlarged, at most the largest there is."""
    if size == MEDMNIST_DEFAULT:
        return MEDMNIST_SIZES[0]
    return next((stored for stored in MEDMNIST_SIZES if stored >= size), MEDMNIST_SIZES[-1])
