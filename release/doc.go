// Command release makes what is released beside podfence's binaries, from those binaries and
// without any container engine, so that what is handed out is what was built, byte for byte:
//
//	release image -version v1.2.3 -created TIME DOCKERFILE BINARIES LAYOUT
//	release push LAYOUT IMAGE
//	release sbom -version v1.2.3 -created TIME BINARY...
//	release changelog REPOSITORY REVISION
//
// The Makefile's targets release-image, release-push, release-sbom and release-changelog call it.
// TIME is in seconds since 1970; the same arguments make the same files, whenever that is done.
//
//	main.go        the command line
//	platforms.go   the platforms of the image, and whether a program is one for its platform
//	dockerfile.go  what a Dockerfile says of the image
//	image.go       that image, for all platforms, in an OCI layout
//	verify.go      that layout, read again
//	push.go        that layout, to a registry
//	sbom.go        what a binary is made of, as an SPDX document
//	changelog.go   the commits since the release before, by room
package main
