package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// verifyImage reads an OCI layout again: it must hold one index, that must list every platform and
// no other, and the image of each must be what the recipe says, with programs for that platform.
// It writes a line for each platform.
func verifyImage(r *recipe, folder string, out io.Writer) error {
	index, err := readIndex(folder)
	if err != nil {
		return err
	}
	if err := validate.Index(index); err != nil {
		return fmt.Errorf("OCI layout %s: %w", folder, err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		return fmt.Errorf("OCI layout %s: %w", folder, err)
	}
	wanted := targets()
	if len(manifest.Manifests) != len(wanted) {
		return fmt.Errorf("OCI layout %s: the index lists %d images, not %d", folder, len(manifest.Manifests), len(wanted))
	}
	for i, t := range wanted {
		entry := manifest.Manifests[i]
		if entry.Platform == nil || !entry.Platform.Equals(t.platform) {
			return fmt.Errorf("OCI layout %s: image %d of the index is for %v, not for %s", folder, i+1, entry.Platform, t.platform)
		}
		image, err := index.Image(entry.Digest)
		if err != nil {
			return fmt.Errorf("OCI layout %s: %s: %w", folder, t.platform, err)
		}
		if err := r.verify(image, t); err != nil {
			return fmt.Errorf("OCI layout %s: %s: %w", folder, t.platform, err)
		}
		fmt.Fprintf(out, "%s %s\n", entry.Digest, t.platform)
	}
	return nil
}

// readIndex returns the image in an OCI layout, as the index of its platforms.
func readIndex(folder string) (v1.ImageIndex, error) {
	top, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w; make release-image writes it", folder, err)
	}
	manifest, err := top.IndexManifest()
	if err != nil {
		return nil, fmt.Errorf("OCI layout %s: %w", folder, err)
	}
	if len(manifest.Manifests) != 1 || !manifest.Manifests[0].MediaType.IsIndex() {
		return nil, fmt.Errorf("OCI layout %s: it does not hold one index alone", folder)
	}
	return top.ImageIndex(manifest.Manifests[0].Digest)
}

// verify says how an image is not what the recipe makes for a platform.
func (r *recipe) verify(image v1.Image, t target) error {
	config, err := image.ConfigFile()
	if err != nil {
		return err
	}
	if config.OS != t.platform.OS || config.Architecture != t.platform.Architecture || config.Variant != t.platform.Variant {
		return fmt.Errorf("its configuration is for %s/%s/%s", config.OS, config.Architecture, config.Variant)
	}
	if !maps.Equal(config.Config.Labels, r.labels) || !slices.Equal(config.Config.Entrypoint, r.entrypoint) {
		return fmt.Errorf("its configuration has labels %v and entrypoint %q; the Dockerfile says %v", config.Config.Labels, config.Config.Entrypoint, r)
	}
	layers, err := image.Layers()
	if err != nil {
		return err
	}
	if len(layers) != 1 {
		return fmt.Errorf("it has %d layers, not one", len(layers))
	}
	content, err := layers[0].Uncompressed()
	if err != nil {
		return err
	}
	defer content.Close()
	return r.verifyFiles(content, t)
}

// verifyFiles says how a layer does not hold the recipe's programs, for the platform, and no more.
func (r *recipe) verifyFiles(layer io.Reader, t target) error {
	archive := tar.NewReader(layer)
	seen := 0
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if _, is := r.files["/"+header.Name]; !is {
			return fmt.Errorf("it holds /%s, which the Dockerfile does not copy", header.Name)
		}
		if header.Mode != 0o755 || header.Uid != 0 || header.Gid != 0 || header.ModTime.Unix() != 0 {
			return fmt.Errorf("/%s has the mode %o, the owner %d:%d and the time %v", header.Name, header.Mode, header.Uid, header.Gid, header.ModTime)
		}
		program, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		if err := t.check(bytes.NewReader(program)); err != nil {
			return fmt.Errorf("/%s: %w", header.Name, err)
		}
		seen++
	}
	if seen != len(r.files) {
		return fmt.Errorf("it holds %d files, and the Dockerfile copies %d", seen, len(r.files))
	}
	return nil
}
