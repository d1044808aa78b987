"""The version of the program, as CHANGELOG.md counts it."""

VERSION = "0.1.0"
