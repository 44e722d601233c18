package faults

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"
)

// suite is a suite of random cases.
type suite struct {
	pkg string // below the module
	run string // its tests, as -test.run has them
	// without is a file of the package that the tests do not need, and that would have a
	// whole agent be linked for each fault; empty: there is none.
	without string
	// args are its flags, for the first seed, in a try that may take so long. If it finds
	// nothing before, it is tried again, with more cases.
	args func(seed int64, try int, left time.Duration) []string
	// found has in its first group, of what the suite prints when something is wrong, what
	// number says, with the first seed, after how many cases that was.
	found  *regexp.Regexp
	number func(found, seed int64) int64
}

var (
	ofSeed  = regexp.MustCompile(`(?m)^.*\bseed (\d+)\b`)
	ofFrame = regexp.MustCompile(`-seed \d+ -only \w+:(\d+)`)
	ofBurst = regexp.MustCompile(`seed \d+, burst (\d+)`)
)

// A seed's case is one of those from the first seed on; frames are counted from zero, and
// bursts from one.
func fromSeed(found, seed int64) int64 { return found - seed + 1 }
func fromZero(found, _ int64) int64    { return found + 1 }
func fromOne(found, _ int64) int64     { return found }

// suites are those there are, the cheapest first.
var suites = map[string]suite{
	"policy": {
		pkg: "policy", found: ofSeed, number: fromSeed, args: histories,
		run: "TestModelEqualsCompile|TestHistoryOrder|TestSharedAddresses|TestClosedModelEqualsCompile|TestPortions|TestPortionsMet|TestBudgetHistories|TestStagedModelEqualsCompile|TestStagedIsNotInForce|TestStagedInForce",
	},
	"ruleset": {
		pkg: "ruleset", found: ofSeed, number: fromSeed, args: histories,
		run: "TestUpdateEqualsBuild|TestTraceEqualsJudge|TestAffected|TestGuardUpdateEqualsBuild|TestUpdateEqualsBuildStaged|TestStagedEqualsEnforced",
	},
	"truth":     {pkg: "test/truth", run: "TestTruth", without: "real_test.go", args: lasting("-shrink", "10s"), found: ofSeed, number: fromSeed},
	"flows":     {pkg: "ruleset/kernel", run: "TestRandomFlows", args: lasting(), found: ofSeed, number: fromSeed},
	"kernel":    {pkg: "ruleset/kernel", run: "TestRandomFaults", args: lasting(), found: ofSeed, number: fromSeed},
	"node":      {pkg: "cni/node", run: "TestRandomRounds", args: lasting(), found: ofSeed, number: fromSeed},
	"plugin":    {pkg: "cni/plugin", run: "TestRandomLives", args: lasting(), found: ofSeed, number: fromSeed},
	"enforcer":  {pkg: "controllers", run: "TestRandomCommits", args: lasting(), found: ofSeed, number: fromSeed},
	"real":      {pkg: "test/truth", run: "TestReal", args: lasting("-shrink", "10s"), found: ofSeed, number: fromSeed},
	"agreement": {pkg: "test/agreement", run: "TestThreeWayAgreement", args: lasting("-rounds", "0"), found: ofSeed, number: fromSeed},
	"attack": {
		pkg: "test/attack", run: "TestAttacks", found: ofFrame, number: fromZero,
		args: func(seed int64, _ int, _ time.Duration) []string {
			return []string{"-attack", "-frames", "-seed", fmt.Sprint(seed)}
		},
	},
	"soak": {
		pkg: "test/soak", run: "TestSoak", found: ofBurst, number: fromOne,
		args: func(seed int64, try int, left time.Duration) []string {
			return []string{"-seed", fmt.Sprint(seed), "-soak", min(left, 30*time.Second<<try).String()}
		},
	},
}

// files are what `go test` builds the suite from: its package, or the files of that.
func (s suite) files(root string) ([]string, error) {
	if s.without == "" {
		return []string{"./" + s.pkg}, nil
	}
	files, err := filepath.Glob(filepath.Join(root, s.pkg, "*_test.go"))
	return slices.DeleteFunc(files, func(path string) bool { return filepath.Base(path) == s.without }), err
}

// histories are the flags of a suite that has a number of them: ten times as many in each try.
func histories(seed int64, try int, _ time.Duration) []string {
	n := 100
	for range try {
		n *= 10
	}
	return []string{"-seed", fmt.Sprint(seed), "-histories", fmt.Sprint(n)}
}

// lasting are the flags of a suite that goes on for a while.
func lasting(more ...string) func(int64, int, time.Duration) []string {
	return func(seed int64, _ int, left time.Duration) []string {
		return append([]string{"-seed", fmt.Sprint(seed), "-duration", left.Round(time.Second).String()}, more...)
	}
}

// cases is after how many cases a suite has found something, by what it has printed; 0 if
// it has not.
func (s suite) cases(printed []byte, seed int64) int64 {
	m := s.found.FindSubmatch(printed)
	if m == nil {
		return 0
	}
	found, err := strconv.ParseInt(string(m[1]), 10, 64)
	if err != nil {
		return 0
	}
	return s.number(found, seed)
}
