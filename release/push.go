package main

import (
	"context"
	"fmt"
	"io"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// push sends the image in an OCI layout to a registry, for all platforms, and writes to out what is to be
// signed: a line with the name of the image by digest, and one for each platform with the name of that
// one's and the architecture. Who pushes is whoever `docker login` or the like has put in
// the Docker configuration (DOCKER_CONFIG); without that, nobody.
func push(ctx context.Context, folder, image string, out io.Writer) error {
	ref, err := name.NewTag(image, name.StrictValidation)
	if err != nil {
		return fmt.Errorf("image %s: %w; it takes a tag, as in ghcr.io/podfence/podfence:v1.2.3", image, err)
	}
	index, err := readIndex(folder)
	if err != nil {
		return err
	}
	digest, err := index.Digest()
	if err != nil {
		return fmt.Errorf("OCI layout %s: %w", folder, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("OCI layout %s: %w", folder, err)
	}
	if err := remote.WriteIndex(ref, index, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	fmt.Fprintln(out, ref.Context().Digest(digest.String()))
	for _, entry := range manifest.Manifests {
		fmt.Fprintln(out, ref.Context().Digest(entry.Digest.String()), entry.Platform.Architecture)
	}
	return nil
}
