"""What a file of arrays really holds: its kind, and values that HDF5 would make up as zeros."""

import math
import os
import zipfile
from pathlib import Path

import h5py

DEPTH = 8  # of virtual datasets whose sources are virtual


def suffixes_of(file: Path) -> tuple[str, ...]:
    """The suffixes that files of such a content have: HDF5, `.npz`, none of others.

    MATLAB's files are HDF5, too, with all arrays transposed, so they keep their name.
    """
    if h5py.is_hdf5(file) and file.suffix.lower() != ".mat":
        return ".h5", ".hdf5"
    try:
        with zipfile.ZipFile(file) as held:
            return (".npz",) if any(each.endswith(".npy") for each in held.namelist()) else ()
    except (zipfile.BadZipFile, OSError):  # whoever reads it says what is wrong
        return ()


def missing_values(dataset: h5py.Dataset, depth: int = DEPTH) -> str | None:
    """What of a dataset would be made up when it is read: the end of a sentence, or None.

    Found are sources and raw files that are gone or too short, parts of a virtual dataset that no
    source fills, and storage that was never written. Not found is the unwritten rest of an array
    that is stored in one piece: it cannot be told from zeros that were written.
    """
    if not dataset.size:
        return None
    if dataset.is_virtual:
        return _missing_source(dataset, depth)
    if dataset.external:
        return _missing_raw_file(dataset)
    fill = f"would be read as {dataset.fillvalue}"
    if dataset.chunks:
        pairs = zip(dataset.shape, dataset.chunks, strict=True)
        chunks = math.prod(-(-length // chunk) for length, chunk in pairs)
        unwritten = chunks - dataset.id.get_num_chunks()
        if unwritten > 0:
            return f"has {unwritten:,} of {chunks:,} chunks that were never written and {fill}"
    elif dataset.id.get_space_status() == h5py.h5d.SPACE_STATUS_NOT_ALLOCATED:
        return f"was never written and {fill}"
    return None


def _missing_source(dataset: h5py.Dataset, depth: int) -> str | None:
    if depth == 0:
        return "is virtual, as are its sources, theirs, and so on"
    here = Path(os.fsdecode(dataset.file.filename)).parent
    filled = 0
    for source in dataset.virtual_sources():
        values = source.vspace.get_select_npoints()
        filled += values
        if source.file_name == ".":
            reason = _missing_in(dataset.file, source, values, depth)
        elif "%" in source.file_name:  # numbered files: HDF5 ends the dataset at the first missing
            return None
        else:
            # HDF5 looks beside the file first, then in the working folder.
            places = (here / source.file_name, Path(source.file_name))
            file = next((place for place in places if place.is_file()), None)
            if file is None:
                return f"lies in {places[0]}, which is not there"
            with h5py.File(file, "r") as opened:
                reason = _missing_in(opened, source, values, depth)
        if reason is not None:
            return reason
    if 0 <= filled < dataset.size:
        return f"has {dataset.size - filled:,} of {dataset.size:,} values that no source fills"
    return None


def _missing_in(file: h5py.File, source: "h5py.VDSmap", values: int, depth: int) -> str | None:
    found = file.get(source.dset_name)
    place = f"{source.dset_name} of {os.fsdecode(file.filename)}"
    if not isinstance(found, h5py.Dataset):
        return f"lies in {place}, which is not there"
    extent = source.src_space.get_simple_extent_dims()
    short = len(extent) == found.ndim and any(
        held < wanted for held, wanted in zip(found.shape, extent, strict=True)
    )
    if short or found.size < values:
        return f"lies in {place}, which holds fewer values than it should"
    reason = missing_values(found, depth - 1)
    return None if reason is None else f"lies in {place}, which {reason}"


def _missing_raw_file(dataset: h5py.Dataset) -> str | None:
    left = dataset.size * dataset.dtype.itemsize
    for name, offset, size in dataset.external:
        file, wanted = Path(name), min(size, left)  # HDF5 looks in the working folder
        if not file.is_file():
            return f"lies in {file.absolute()}, which is not there"
        if file.stat().st_size < offset + wanted:
            return f"lies in {file.absolute()}, which is shorter than it should be"
        left -= wanted
    return None
