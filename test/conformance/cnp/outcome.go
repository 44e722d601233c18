package cnp

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	report "sigs.k8s.io/network-policy-api/conformance/apis/v1alpha1"
	"sigs.k8s.io/network-policy-api/conformance/utils/suite"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/test/conformance/cnp/kubernetes"
)

// outcome is what has come of a run. The command publish reads it.
type outcome struct {
	Report  report.ConformanceReport `json:"report"`
	Seconds int                      `json:"seconds"`
	// LeftOut has a sentence for what each support level has lost, for want of SCTP.
	LeftOut []string `json:"leftOut,omitempty"`
}

// newOutcome makes that of a run of tests, and adds to the report what probes the tests
// were without, which the suite knows nothing of. It does know what tests were skipped.
func newOutcome(r report.ConformanceReport, tests []suite.ConformanceTest, counts map[string]kubernetes.Count, took time.Duration) outcome {
	o := outcome{Report: r, Seconds: int(took.Round(time.Second).Seconds())}
	for i := range r.ProfileReports {
		profile := &r.ProfileReports[i]
		o.level(&profile.Standard, leftOut(tests, counts, false))
		if profile.Experimental != nil {
			o.level(&profile.Experimental.Status, leftOut(tests, counts, true))
		}
	}
	return o
}

func (o *outcome) level(status *report.Status, probes string) {
	if len(status.SkippedTests) > 0 {
		// In an order that is the same in each run, other than the suite's.
		names := slices.Sorted(slices.Values(status.SkippedTests))
		o.LeftOut = append(o.LeftOut, "tests of SCTP alone left out, as the kernel has no SCTP sockets: "+strings.Join(names, ", "))
	}
	switch {
	case probes == "":
		return
	case status.Summary == "":
		status.Summary = probes
	default:
		status.Summary += "; " + probes
	}
	o.LeftOut = append(o.LeftOut, probes)
}

// write puts files into a folder: report.yaml, outcome.json, and counts, a line for run.sh
// with how many tests have passed, have failed and were left out, and seconds, and after it
// what was left out.
func (o outcome) write(folder string) error {
	profiles, err := yaml.Marshal(o.Report)
	if err != nil {
		return err
	}
	all, err := json.MarshalIndent(o, "", "  ")
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"report.yaml":  profiles,
		"outcome.json": append(all, '\n'),
		"counts":       []byte(o.lines()),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (o outcome) lines() string {
	var passed, failed, skipped uint32
	add := func(s report.Status) { passed, failed, skipped = passed+s.Passed, failed+s.Failed, skipped+s.Skipped }
	for _, profile := range o.Report.ProfileReports {
		add(profile.Standard)
		if profile.Experimental != nil {
			add(profile.Experimental.Status)
		}
	}
	text := fmt.Sprintf("%d %d %d %d\n", passed, failed, skipped, o.Seconds)
	for _, sentence := range o.LeftOut {
		text += sentence + "\n"
	}
	return text
}
