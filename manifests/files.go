package manifests

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// maxFile is more than all the pods of a large cluster, 100,000 of them, and bounds the
// memory that a mistake takes: a file is read whole. maxFolders ends a walk
// that symbolic links make endless.
const (
	maxFile    = 1 << 30
	maxFolders = 10000
)

// extensions are those that kubectl reads.
var extensions = []string{".yaml", ".yml", ".json"}

// listing is what there is to read below a path.
type listing struct {
	// files are in name order.
	files []string
	// folders are the real paths of those that were walked.
	folders map[string]bool
	// shallow: folders in folders are left out.
	shallow bool
	errs    []*Error
}

// walk lists what Load reads. If it is shallow, folders in folders are left out. visit, unless nil, is
// called with each folder before it is listed.
func walk(path string, shallow bool, visit func(folder string)) *listing {
	t := &listing{folders: map[string]bool{}, shallow: shallow}
	info, err := os.Stat(path)
	switch {
	case err != nil:
		t.fail(path, err)
	case info.IsDir():
		t.folder(path, visit)
	default: // also a pipe, which a shell's <(…) is
		t.files = []string{path}
	}
	return t
}

func (t *listing) fail(path string, err error) {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		err = pathErr.Err // which names the path once more
	}
	t.errs = append(t.errs, &Error{File: path, Err: err})
}

func (t *listing) folder(path string, visit func(string)) {
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		t.fail(path, err)
		return
	}
	if t.folders[real] {
		t.fail(path, fmt.Errorf("leads to %s, which is read already", real))
		return
	}
	if len(t.folders) == maxFolders {
		t.fail(path, fmt.Errorf("more than %d folders", maxFolders))
		return
	}
	t.folders[real] = true
	if visit != nil {
		visit(real)
	}
	entries, err := os.ReadDir(path) // in name order
	if err != nil {
		t.fail(path, err)
		return
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), ".") {
			t.entry(filepath.Join(path, entry.Name()), visit)
		}
	}
}

// entry follows symbolic links, to files and to folders: a mounted ConfigMap
// consists of them.
func (t *listing) entry(path string, visit func(string)) {
	wanted := slices.Contains(extensions, filepath.Ext(path))
	info, err := os.Stat(path)
	switch {
	case err != nil && wanted:
		t.fail(path, err)
	case err != nil: // a dangling link that would not have been read
	case info.IsDir() && t.shallow:
	case info.IsDir():
		t.folder(path, visit)
	case wanted && !info.Mode().IsRegular():
		t.fail(path, errors.New("not a regular file"))
	case wanted:
		t.files = append(t.files, path)
	}
}

// read returns a file's bytes.
func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // nothing was written
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxFile {
		return nil, errTooLarge
	}
	// A pipe has no size that it says.
	data := bytes.NewBuffer(make([]byte, 0, info.Size()+bytes.MinRead))
	if _, err := data.ReadFrom(io.LimitReader(f, maxFile+1)); err != nil {
		return nil, err
	}
	if data.Len() > maxFile {
		return nil, errTooLarge
	}
	return data.Bytes(), nil
}

var errTooLarge = fmt.Errorf("larger than %d GiB", maxFile>>30)
