package main

import (
	"context"
	"os/exec"
	"strings"
	"testing"
)

// TestChangelog: the commits since the release before, by room, and no merges; everything before
// the first release.
func TestChangelog(t *testing.T) {
	repository := t.TempDir()
	run := func(args ...string) {
		t.Helper()
		args = append([]string{"-C", repository, "-c", "user.name=A", "-c", "user.email=a@example.com", "-c", "init.defaultBranch=main", "-c", "tag.gpgSign=false", "-c", "commit.gpgSign=false"}, args...)
		if out, err := exec.Command("git", args...).CombinedOutput(); err != nil {
			t.Fatalf("git %q: %v\n%s", args, err, out)
		}
	}
	commit := func(subject string) { t.Helper(); run("commit", "--allow-empty", "-m", subject) }
	written := func(revision string) string {
		t.Helper()
		var out strings.Builder
		if err := changelog(context.Background(), repository, revision, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	run("init", "-q")
	commit("cli: begin")
	expectLines(t, written("HEAD"), "The first release. How it came to be:", "### cli", "- begin (")
	run("tag", "v0.1.0")
	expectLines(t, written("v0.1.0"), "The first release. How it came to be:", "- begin (")
	commit("ruleset: drop stale set elements after rules")
	run("switch", "-q", "-c", "side")
	commit("docs/adr, test: say why: it takes two")
	run("switch", "-q", "main")
	commit("Weekly update")
	run("merge", "-q", "--no-ff", "-m", "Merge: the side", "side")
	run("tag", "not-a-release")
	run("tag", "v0.2.0")

	got := written("v0.2.0")
	expectLines(t, got, "What has changed since v0.1.0:", "### docs/adr", "- say why: it takes two (", "; also test)", "### other", "- Weekly update (", "### ruleset", "- drop stale set elements after rules (")
	if strings.Contains(got, "begin") || strings.Contains(got, "Merge") {
		t.Errorf("older commits, or merges:\n%s", got)
	}
	if err := changelog(context.Background(), repository, "v9", &strings.Builder{}); err == nil || !strings.Contains(err.Error(), "v9") {
		t.Errorf("a revision that is not there: %v", err)
	}
}

// expectLines checks that a text has these parts, in this order.
func expectLines(t *testing.T, text string, parts ...string) {
	t.Helper()
	rest := text
	for _, part := range parts {
		_, after, found := strings.Cut(rest, part)
		if !found {
			t.Fatalf("no %q where it was expected, in\n%s", part, text)
		}
		rest = after
	}
}
