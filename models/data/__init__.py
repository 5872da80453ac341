"""Readers of data files, as plain functions.

A file is a claim. What it declares is held against what is there and against a limit before memory
is asked for, nothing in it is executed, and no archive is unpacked; what is wrong raises DataError,
which names the file and the place. Wherever a path is taken, a URL that fsspec knows will do:
`s3://`, `gs://`, `abfs://`, `hdfs://`, `memory://`, `file://`.

    idx        arrays of MNIST and its kin
    cifar      the batches of CIFAR-10 and CIFAR-100, as pickles or binary
    folders    a directory for each class: images, or sounds; Speech Commands
    sound      WAV
    tables     rows of CSV, JSON lines and Parquet, one after another; arrays of npz
    texts      text files, or directories of them
    parquet    and what its files claim
    users      LEAF's JSON and MovieLens' ratings: data with an owner
    packages   the local package index of Debian and its kin
    telemetry  what /proc says of this machine
    stream     batches of anything that can be iterated, also of more than fits into memory
"""
