"""The version of the program; CHANGELOG.md says what is in it."""

VERSION = "0.1.0"
