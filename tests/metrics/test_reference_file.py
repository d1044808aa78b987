"""Statistics of other programs: read as they are, written so that those programs read them."""

import pickle

import numpy as np
import pytest
import torch

from metrics.features import FeatureCollector
from metrics.reference_file import read_reference, write_reference
from metrics.scores import frechet_distance
from utils.errors import UserError


def statistics(width=6, seed=0, dtype=np.float64):
    features = np.random.default_rng(seed).normal(size=(50, width))
    return features.mean(0).astype(dtype), np.cov(features, rowvar=False).astype(dtype)


def file_of_adm(path, dtype):
    mu, sigma = statistics(dtype=dtype)
    mu_s, sigma_s = statistics(9, 1, dtype)
    images = np.zeros((12, 8, 8, 3), np.uint8)
    np.savez(
        path, arr_0=images, arr_1=np.arange(12), mu=mu, sigma=sigma, mu_s=mu_s, sigma_s=sigma_s
    )


def file_of_edm(path, dtype):
    mu, sigma = statistics(dtype=dtype)
    np.savez(path, mu=mu, sigma=sigma)


def file_of_clean_fid(path, dtype):
    mu, sigma = statistics(dtype=dtype)
    np.savez_compressed(path, mu=mu, sigma=sigma)


def file_by_columns(path, dtype):
    mu, sigma = statistics(dtype=dtype)
    np.savez(path, mu=mu.astype(mu.dtype.newbyteorder(">")), sigma=np.asfortranarray(sigma))


def pickle_of_edm2(protocol):
    def write(path, dtype):
        mu, sigma = statistics(dtype=dtype)
        other = dict(zip(("mu", "sigma"), statistics(4, 1), strict=True))
        stored = {"num_images": 77, "fid": {"mu": mu, "sigma": sigma}, "fd_dinov2": other}
        path.write_bytes(pickle.dumps(stored, protocol))

    return write


def file_of_halton(path, dtype):
    mu, cov = (torch.from_numpy(array) for array in statistics(dtype=dtype))
    torch.save({"mu": mu, "cov": cov}, path)


def old_torch_file(path, dtype):
    mu, cov = (torch.from_numpy(array) for array in statistics(dtype=dtype))
    torch.save({"mu": mu, "cov": cov}, path, _use_new_zipfile_serialization=False)


WRITERS = {
    "adm.npz": file_of_adm,
    "edm.npz": file_of_edm,
    "clean.npz": file_of_clean_fid,
    "columns.npz": file_by_columns,
    "edm2.pkl": pickle_of_edm2(4),
    "edm2-new.pkl": pickle_of_edm2(5),
    "halton.pt": file_of_halton,
    "halton-old.pt": old_torch_file,
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", WRITERS)
def test_statistics_are_read_as_they_are(tmp_path, name, dtype):
    WRITERS[name](tmp_path / name, dtype)
    found = read_reference(tmp_path / name, "fid")
    for array, expected in zip(found.statistics, statistics(dtype=dtype), strict=True):
        assert array.dtype == torch.float64
        np.testing.assert_array_equal(array.numpy(), expected)
    assert found.count == (77 if "edm2" in name else None)
    assert found.images_shape == ((12, 8, 8, 3) if "adm" in name else None)
    assert (found.spatial is None) == ("adm" not in name)
    assert "(6,)" in found.holds


def test_another_section_of_edm2(tmp_path):
    pickle_of_edm2(4)(tmp_path / "a.pkl", np.float64)
    mean, _ = read_reference(tmp_path / "a.pkl", "fd_dinov2").statistics
    np.testing.assert_array_equal(mean.numpy(), statistics(4, 1)[0])
    (tmp_path / "b.pkl").write_bytes(pickle.dumps({"fid": {"mu": 1}, "num_images": 3}))
    with pytest.raises(UserError, match=r"no fd_dinov2 with mu and sigma; it holds fid \(mu 1\)"):
        read_reference(tmp_path / "b.pkl", "fd_dinov2")


def test_features_of_clean_fid(tmp_path):
    features = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    np.savez_compressed(tmp_path / "a_kid.npz", feats=features)
    found = read_reference(tmp_path / "a_kid.npz", "fid")
    np.testing.assert_array_equal(found.features.numpy(), features)


class Harmful:
    def __reduce__(self):
        return (pytest.fail, ("code in the file ran",))


MU, SIGMA = statistics()
DAMAGED = {
    "neither": ({"images": np.zeros(3)}, "no mu and sigma, feats, arr_0; it holds images"),
    "nothing": ({}, "it holds nothing"),
    "no sigma": ({"mu": MU}, "mu without sigma or cov; it holds mu float64 (6,)"),
    "other width": ({"mu": MU[:4], "sigma": SIGMA}, "do not fit each other: mu (4,), sigma (6, 6)"),
    "nan": ({"mu": MU * np.nan, "sigma": SIGMA}, "its mu holds values that are not finite"),
    "huge": ({"mu": MU + 1e200, "sigma": SIGMA}, "values that are not finite, or above 1e+30"),
    "not symmetric": ({"mu": MU, "sigma": np.triu(SIGMA)}, "sigma is not a covariance"),
    "negative": ({"mu": MU, "sigma": -SIGMA}, "sigma is not a covariance"),
    "integers": ({"mu": MU.astype(int), "sigma": SIGMA}, "mu is int64 (6,), not numbers"),
    "half": ({"mu": MU.astype(np.float16), "sigma": SIGMA}, "mu float16 (6,) is not an array of"),
    "objects": ({"mu": np.array([{}, {}]), "sigma": SIGMA}, "it holds Python objects"),
    "float images": ({"arr_0": np.zeros((2, 8, 8, 3))}, "the images are float64 (2, 8, 8, 3)"),
    "wide": ({"mu": np.zeros(9000), "sigma": SIGMA}, "mu is float64 (9000,), not numbers"),
    "text": (b"mu, sigma", "it is not a .npz, a pickle or a file of torch.save"),
    "empty": (b"", "it is empty"),
    "page": (b"<html>not found", "it is a web page"),
    "cut pickle": (pickle.dumps({"fid": {"mu": MU, "sigma": SIGMA}})[:-60], "cannot read"),
    "list": (pickle.dumps([MU, SIGMA]), "it holds a list and not arrays by name"),
    "code": (pickle.dumps({"fid": Harmful()}), "no fid with mu and sigma; it holds fid StandIn"),
    "text in it": (pickle.dumps({"mu": "0", "sigma": SIGMA}), "mu str is not an array of float32"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_files_that_do_not_fit_say_what_they_hold_in_one_line(tmp_path, name):
    content, message = DAMAGED[name]
    path = tmp_path / "reference.npz"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.savez(path, **content)
    with pytest.raises(UserError) as error:
        read_reference(path, "fid")
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_every_byte_that_is_lost_is_one_line(tmp_path):
    file_of_adm(tmp_path / "whole.npz", np.float32)
    whole, path = (tmp_path / "whole.npz").read_bytes(), tmp_path / "cut.npz"
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="cannot read the reference"):
            read_reference(path, "fid")


def collected(features, spatial=None):
    collector = FeatureCollector(len(features))
    spatial = None if spatial is None else torch.from_numpy(spatial)
    collector.add(torch.from_numpy(features), spatial=spatial)
    return collector.result()


def test_a_written_file_has_what_the_others_read(tmp_path):
    random = np.random.default_rng(0)
    features, maps = random.normal(size=(40, 5)), random.normal(size=(40, 7))
    images = random.integers(0, 256, (40, 4, 6, 1), np.uint8)
    real = collected(features, maps)
    blocks = [(images[i : i + 16], np.arange(40)[i : i + 16]) for i in range(0, 40, 16)]
    write_reference(tmp_path / "ours.npz", real, blocks, "fid")

    # As evaluator.py of ADM and load_stats of EDM2 do.
    with np.load(tmp_path / "ours.npz") as stored:
        for values, names in ((features, ("mu", "sigma")), (maps, ("mu_s", "sigma_s"))):
            np.testing.assert_allclose(stored[names[0]], values.mean(0), rtol=1e-12)
            np.testing.assert_allclose(stored[names[1]], np.cov(values, rowvar=False), rtol=1e-10)
        assert stored["arr_0"].dtype == np.uint8
        np.testing.assert_array_equal(stored["arr_0"], images.repeat(3, 3))
        np.testing.assert_array_equal(stored["arr_1"], np.arange(40))
    write_reference(tmp_path / "ours.pkl", real, [], "fid")
    stored = pickle.loads((tmp_path / "ours.pkl").read_bytes())
    assert stored["num_images"] == 40
    np.testing.assert_allclose(stored["fid"]["mu"], features.mean(0), rtol=1e-12)

    for name in ("ours.npz", "ours.pkl"):
        mean, covariance = read_reference(tmp_path / name, "fid").statistics
        assert mean.equal(real.mean)
        assert covariance.equal(real.covariance)
    assert frechet_distance(real, real)["fid"] == pytest.approx(0, abs=1e-9)


def test_ten_thousand_images_at_most_are_written(tmp_path, monkeypatch):
    monkeypatch.setattr("metrics.features.KEPT", 10)
    images = np.arange(40, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    write_reference(tmp_path / "a.npz", collected(np.eye(40)), [(images, np.arange(40))], "fid")
    with np.load(tmp_path / "a.npz") as stored:
        assert stored["arr_0"].shape == (10, 1, 1, 3)
        np.testing.assert_array_equal(stored["arr_0"][:, 0, 0, 0], stored["arr_1"])
        assert len(set(stored["arr_1"])) == 10
