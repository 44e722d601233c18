package main

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// refName is the annotation of an OCI layout's index that names an image in it.
const refName = "org.opencontainers.image.ref.name"

// writeImage writes an image for all platforms into an OCI layout, in place of what the folder
// holds: one manifest for each platform, and an index of them by the name of the release. The
// programs are those among the binaries with the platform's name behind theirs, such as
// podfence-linux-arm64.
func writeImage(r *recipe, binaries, folder, version string, created time.Time) error {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, t := range targets() {
		image, err := imageFor(r, t, binaries, created)
		if err != nil {
			return fmt.Errorf("image for %s: %w", t.platform, err)
		}
		platform := t.platform
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        image,
			Descriptor: v1.Descriptor{Platform: &platform},
		})
	}
	annotated, is := mutate.Annotations(index, annotationsOf(r)).(v1.ImageIndex)
	if !is {
		return fmt.Errorf("the index with its annotations is no index")
	}
	if err := os.RemoveAll(folder); err != nil {
		return err
	}
	written, err := layout.Write(folder, empty.Index)
	if err != nil {
		return fmt.Errorf("OCI layout %s: %w", folder, err)
	}
	if err := written.AppendIndex(annotated, layout.WithAnnotations(map[string]string{refName: version})); err != nil {
		return fmt.Errorf("OCI layout %s: %w", folder, err)
	}
	return nil
}

// imageFor is the image for one platform.
func imageFor(r *recipe, t target, binaries string, created time.Time) (v1.Image, error) {
	layer, err := layerOf(r, t, binaries)
	if err != nil {
		return nil, err
	}
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err = mutate.Append(image, mutate.Addendum{
		Layer:     layer,
		MediaType: types.OCILayer,
		History:   v1.History{Created: v1.Time{Time: created}, CreatedBy: "make release-image"},
	})
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Variant = t.platform.OS, t.platform.Architecture, t.platform.Variant
	config.Created = v1.Time{Time: created}
	config.Config.Labels = r.labels
	config.Config.Entrypoint = r.entrypoint
	if image, err = mutate.ConfigFile(image, config); err != nil {
		return nil, err
	}
	annotated, is := mutate.Annotations(image, annotationsOf(r)).(v1.Image)
	if !is {
		return nil, fmt.Errorf("the image with its annotations is no image")
	}
	return annotated, nil
}

// annotationsOf are the labels that OCI knows, which registries show of a manifest by its
// annotations alone.
func annotationsOf(r *recipe) map[string]string {
	annotations := map[string]string{}
	for key, value := range r.labels {
		if strings.HasPrefix(key, "org.opencontainers.image.") {
			annotations[key] = value
		}
	}
	return annotations
}

// layerOf is the layer with the image's files, owned by root and from 1970, so that the same
// programs make the same layer.
func layerOf(r *recipe, t target, binaries string) (v1.Layer, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, at := range slices.Sorted(maps.Keys(r.files)) {
		source := filepath.Join(binaries, r.files[at]+"-"+t.platform.OS+"-"+t.platform.Architecture)
		program, err := os.ReadFile(source)
		if err != nil {
			return nil, fmt.Errorf("%w; make release-binaries builds it", err)
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(at, "/"), Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0).UTC(), Format: tar.FormatUSTAR}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := w.Write(program); err != nil {
			return nil, err
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
}
