// Command publish puts what `make conformance-cnp` has found into the documents, once there is a
// result of each channel of the API:
//
//	publish RESULTS DOCS
//
// It writes the table in DOCS/CONFORMANCE.md, which says of what was not run that it was not, and DOCS/conformance/VERSION-CHANNEL.yaml, a
// report of the suite for each channel: that with the most tests that failed, or were left
// out, and of several such the first.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/podfence/podfence/test/document"
)

// What there is to go through, in the order of the table.
var (
	channels = []string{"standard", "experimental"}
	clusters = [][2]string{{"ipv4", "nftables"}, {"ipv4", "iptables"}, {"dual", "nftables"}, {"dual", "iptables"}}
)

// outcome is what is read of a run's outcome.json, which test/conformance/cnp writes.
type outcome struct {
	Report struct {
		Implementation struct {
			Version string `json:"version"`
		} `json:"implementation"`
		BundleVersion string `json:"networkPolicyBundleVersion"`
		Profiles      []struct {
			Standard     status  `json:"standard"`
			Experimental *status `json:"experimental"`
		} `json:"profiles"`
	} `json:"report"`
	Seconds int      `json:"seconds"`
	LeftOut []string `json:"leftOut"`

	file string // the report
}

type status struct {
	Statistics struct{ Passed, Skipped, Failed int } `json:"statistics"`
	Failed     []string                              `json:"failedTests"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "publish:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 2 {
		return errors.New("usage: publish RESULTS DOCS")
	}
	results, docs := args[0], args[1]
	all, missing, err := read(results)
	if err != nil {
		return err
	}
	if len(missing) > 0 {
		fmt.Printf("publish: there is no result in %s of %s\n", results, strings.Join(missing, ", "))
	}
	for _, channel := range channels {
		if !slices.ContainsFunc(keys(), func(k key) bool { return k.channel == channel && len(all[k]) > 0 }) {
			fmt.Printf("publish: the documents are left as they are, as there is no result of the channel %s\n", channel)
			return nil
		}
	}
	if err := reports(all, docs); err != nil {
		return err
	}
	text, took := table(all)
	return document.Publish(filepath.Join(docs, "CONFORMANCE.md"), "conformance-cnp", text, took)
}

// key is of a cluster with a channel.
type key struct{ channel, family, proxy string }

func (k key) String() string { return k.channel + "/" + k.family + "-" + k.proxy }

func keys() (all []key) {
	for _, channel := range channels {
		for _, cluster := range clusters {
			all = append(all, key{channel, cluster[0], cluster[1]})
		}
	}
	return all
}

// read returns the runs of each key, and of which there is none, or one without a report.
func read(results string) (all map[key][]outcome, missing []string, err error) {
	all = map[key][]outcome{}
	for _, k := range keys() {
		for n := 1; ; n++ {
			folder := filepath.Join(results, k.String(), strconv.Itoa(n))
			if _, err := os.Stat(folder); errors.Is(err, fs.ErrNotExist) {
				if n == 1 {
					missing = append(missing, k.String())
				}
				break
			}
			data, err := os.ReadFile(filepath.Join(folder, "outcome.json"))
			if errors.Is(err, fs.ErrNotExist) {
				missing = append(missing, fmt.Sprintf("%s/%d", k, n))
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			o := outcome{file: filepath.Join(folder, "report.yaml")}
			if err := json.Unmarshal(data, &o); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", folder, err)
			}
			all[k] = append(all[k], o)
		}
	}
	return all, missing, nil
}

// levels are the support levels of a run.
func (o outcome) levels() (all []status) {
	for _, profile := range o.Report.Profiles {
		all = append(all, profile.Standard)
		if profile.Experimental != nil {
			all = append(all, *profile.Experimental)
		}
	}
	return all
}

func (o outcome) counts() (passed, failed, skipped int, names []string) {
	for _, s := range o.levels() {
		passed, failed, skipped = passed+s.Statistics.Passed, failed+s.Statistics.Failed, skipped+s.Statistics.Skipped
		names = append(names, s.Failed...)
	}
	slices.Sort(names)
	return passed, failed, skipped, names
}

// table has a row for each key and a column for each run, and below it what did not pass.
func table(all map[key][]outcome) (text string, took time.Duration) {
	most := 0
	for _, runs := range all {
		most = max(most, len(runs))
	}
	var b, failures strings.Builder
	b.WriteString("| channel | family | kube-proxy |")
	for n := 1; n <= most; n++ {
		fmt.Fprintf(&b, " run %d |", n)
	}
	b.WriteString(" left out |\n|" + strings.Repeat(" --- |", most+4) + "\n")
	var versions, bundles, leftOut []string
	for _, k := range keys() {
		fmt.Fprintf(&b, "| %s | %s | %s |", k.channel, k.family, k.proxy)
		if len(all[k]) == 0 {
			fmt.Fprintf(&b, " not run |%s\n", strings.Repeat(" |", most))
			continue
		}
		most, out := most, 0
		for n, o := range all[k] {
			passed, failed, skipped, names := o.counts()
			fmt.Fprintf(&b, " %d of %d, %d s |", passed, passed+failed, o.Seconds)
			if failed > 0 {
				fmt.Fprintf(&failures, "- %s, run %d: `%s`\n", k, n+1, strings.Join(names, "`, `"))
			}
			took += time.Duration(o.Seconds) * time.Second
			out, most = max(out, skipped), most-1
			versions, bundles = append(versions, o.Report.Implementation.Version), append(bundles, o.Report.BundleVersion)
			leftOut = append(leftOut, o.LeftOut...)
		}
		fmt.Fprintf(&b, "%s %d |\n", strings.Repeat(" |", most), out)
	}
	fmt.Fprintf(&b, "\nThe suite of %s, podfence %s.\n", distinct(bundles), distinct(versions))
	if failures.Len() > 0 {
		fmt.Fprintf(&b, "\nFailed:\n\n%s", failures.String())
	}
	if sentences := slices.Compact(slices.Sorted(slices.Values(leftOut))); len(sentences) > 0 {
		b.WriteString("\n")
		for _, sentence := range sentences {
			fmt.Fprintf(&b, "- %s\n", sentence)
		}
	}
	return b.String(), took
}

func distinct(values []string) string {
	return strings.Join(slices.Compact(slices.Sorted(slices.Values(values))), ", ")
}

// reports copies a report for each channel.
func reports(all map[key][]outcome, docs string) error {
	folder := filepath.Join(docs, "conformance")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	worst := map[string]outcome{}
	for _, k := range keys() {
		for _, o := range all[k] {
			if w, seen := worst[k.channel]; !seen || o.lost() > w.lost() {
				worst[k.channel] = o
			}
		}
	}
	for channel, o := range worst {
		data, err := os.ReadFile(o.file)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(folder, o.Report.BundleVersion+"-"+channel+".yaml"), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// lost are the tests that have not passed.
func (o outcome) lost() int {
	_, failed, skipped, _ := o.counts()
	return failed + skipped
}
