package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
)

const (
	project = "https://github.com/podfence/podfence"
	license = "Apache-2.0"
	unknown = "NOASSERTION"
)

// writeSBOM writes beside a binary what it is made of: BINARY.spdx.json, SPDX 2.3.
func writeSBOM(binary, version string, created time.Time, out io.Writer) error {
	document, err := billOf(binary, version, created)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := spdxjson.Write(document, &text, spdxjson.Indent("  ")); err != nil {
		return fmt.Errorf("SPDX document of %s: %w", binary, err)
	}
	to := binary + ".spdx.json"
	if err := os.WriteFile(to, text.Bytes(), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(out, "%s: %d packages\n", filepath.Base(to), len(document.Packages))
	return nil
}

// billOf returns what a binary says that it was built of, as `go version -m` prints it: the main
// module, every module that is linked in (or what replaced it), and Go's own library.
func billOf(binary, version string, created time.Time) (*spdx.Document, error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	info, err := buildinfo.Read(bytes.NewReader(program))
	if err != nil {
		return nil, fmt.Errorf("%s: %w; only programs that Go has built can be listed", binary, err)
	}
	name := filepath.Base(binary)
	sum := sha256.Sum256(program)
	digest := hex.EncodeToString(sum[:])
	root := mainPackage(name, version, digest, info)
	document := &spdx.Document{
		SPDXVersion:       spdx.Version,
		DataLicense:       spdx.DataLicense,
		SPDXIdentifier:    "DOCUMENT",
		DocumentName:      name,
		DocumentNamespace: project + "/spdx/" + version + "/" + name + "/" + digest,
		CreationInfo: &spdx.CreationInfo{
			Created:  created.UTC().Format(time.RFC3339),
			Creators: []common.Creator{{CreatorType: "Tool", Creator: "podfence-release"}, {CreatorType: "Organization", Creator: "podfence"}},
		},
		Packages:      []*spdx.Package{root},
		Relationships: []*spdx.Relationship{related("DOCUMENT", "DESCRIBES", root.PackageSPDXIdentifier)},
	}
	for i, part := range append([]*debug.Module{{Path: "stdlib", Version: info.GoVersion}}, info.Deps...) {
		if part.Replace != nil {
			part = part.Replace
		}
		p, err := modulePackage(i, part)
		if err != nil {
			return nil, fmt.Errorf("%s: module %s: %w", binary, part.Path, err)
		}
		document.Packages = append(document.Packages, p)
		document.Relationships = append(document.Relationships, related(root.PackageSPDXIdentifier, "DEPENDS_ON", p.PackageSPDXIdentifier))
	}
	return document, nil
}

func related(from common.ElementID, how string, to common.ElementID) *spdx.Relationship {
	return &spdx.Relationship{RefA: common.MakeDocElementID("", string(from)), RefB: common.MakeDocElementID("", string(to)), Relationship: how}
}

// mainPackage is the program itself.
func mainPackage(name, version, digest string, info *debug.BuildInfo) *spdx.Package {
	var settings []string
	for _, s := range info.Settings {
		settings = append(settings, s.Key+"="+s.Value)
	}
	p := &spdx.Package{
		PackageName:             info.Path,
		PackageSPDXIdentifier:   "Package-main",
		PackageVersion:          version,
		PackageFileName:         name,
		PackageDownloadLocation: project + "/releases/download/" + version + "/" + name,
		PackageChecksums:        []common.Checksum{{Algorithm: common.SHA256, Value: digest}},
		PackageHomePage:         project,
		PackageSourceInfo:       "built by " + info.GoVersion + " with " + strings.Join(settings, " "),
		PrimaryPackagePurpose:   "APPLICATION",
	}
	return filled(p, license, "pkg:golang/"+info.Main.Path+"@"+version)
}

// modulePackage is a module that is linked in. Its checksum is that of go.sum, which is a SHA-256 of
// the names and checksums of its files, and so none that SPDX has a name for.
func modulePackage(number int, m *debug.Module) (*spdx.Package, error) {
	p := &spdx.Package{
		PackageName:             m.Path,
		PackageSPDXIdentifier:   common.ElementID(fmt.Sprintf("Package-%d", number)),
		PackageVersion:          m.Version,
		PackageDownloadLocation: unknown,
		PrimaryPackagePurpose:   "LIBRARY",
	}
	locator := "pkg:golang/" + m.Path + "@" + m.Version
	if number == 0 {
		locator = "pkg:golang/stdlib@" + strings.TrimPrefix(m.Version, "go")
	}
	if m.Sum != "" {
		if _, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err != nil {
			return nil, fmt.Errorf("checksum %q: %w", m.Sum, err)
		}
		p.PackageSourceInfo = "go.sum " + m.Sum
	}
	return filled(p, unknown, locator), nil
}

// filled adds what every package of a document has.
func filled(p *spdx.Package, declared, locator string) *spdx.Package {
	p.PackageLicenseConcluded, p.PackageLicenseDeclared = declared, declared
	p.PackageCopyrightText = unknown
	p.IsFilesAnalyzedTagPresent = true
	p.PackageExternalReferences = []*spdx.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: locator}}
	return p
}
