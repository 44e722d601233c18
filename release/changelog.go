package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"regexp"
	"slices"
	"strings"
)

// change is a commit, as its subject tells of it.
type change struct {
	// room is the first that the subject names; the others are also.
	room, also string
	text, hash string
}

// subject is that of a commit: "room, room: what it does".
var subject = regexp.MustCompile(`^([\w./-]+)((?:, [\w./-]+)*): (.+)$`)

// changelog writes as Markdown what has changed up to a revision since the release before it, by
// room; everything, if there is none. Merges are left out, as what they merge is there.
func changelog(ctx context.Context, repository, revision string, out io.Writer) error {
	since, err := releaseBefore(ctx, repository, revision)
	if err != nil {
		return err
	}
	commits := revision
	if since != "" {
		commits = since + ".." + revision
	}
	log, err := git(ctx, repository, "log", "--no-merges", "--format=%h %s", commits)
	if err != nil {
		return err
	}
	byRoom := map[string][]change{}
	for line := range strings.Lines(log) {
		c := changeOf(strings.TrimSpace(line))
		byRoom[c.room] = append(byRoom[c.room], c)
	}
	switch {
	case len(byRoom) == 0:
		fmt.Fprintf(out, "Nothing has changed since %s.\n", since)
	case since == "":
		fmt.Fprintln(out, "The first release. How it came to be:")
	default:
		fmt.Fprintf(out, "What has changed since %s:\n", since)
	}
	for _, room := range slices.Sorted(maps.Keys(byRoom)) {
		fmt.Fprintf(out, "\n### %s\n\n", room)
		for _, c := range byRoom[room] {
			fmt.Fprintln(out, c)
		}
	}
	return nil
}

// changeOf reads a line of the log: a commit's abbreviated hash, and its subject.
func changeOf(line string) change {
	hash, text, _ := strings.Cut(line, " ")
	parts := subject.FindStringSubmatch(text)
	if parts == nil {
		return change{room: "other", text: text, hash: hash}
	}
	return change{room: parts[1], also: strings.TrimPrefix(parts[2], ", "), text: parts[3], hash: hash}
}

// String is the change as an item of a list.
func (c change) String() string {
	if c.also != "" {
		return fmt.Sprintf("- %s (%s; also %s)", c.text, c.hash, c.also)
	}
	return fmt.Sprintf("- %s (%s)", c.text, c.hash)
}

// releaseBefore returns the newest tag of a release before a revision; "" if there is none.
func releaseBefore(ctx context.Context, repository, revision string) (string, error) {
	parents, err := git(ctx, repository, "rev-list", "--parents", "--max-count=1", revision)
	if err != nil {
		return "", err
	}
	if len(strings.Fields(parents)) < 2 {
		return "", nil
	}
	tags, err := git(ctx, repository, "tag", "--list", "v[0-9]*", "--merged", revision+"^")
	if err != nil || strings.TrimSpace(tags) == "" {
		return "", err
	}
	tag, err := git(ctx, repository, "describe", "--tags", "--abbrev=0", "--match", "v[0-9]*", revision+"^")
	return strings.TrimSpace(tag), err
}

func git(ctx context.Context, repository string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "git", append([]string{"-C", repository}, args...)...).Output()
	if failed, is := errors.AsType[*exec.ExitError](err); is {
		return "", fmt.Errorf("git %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(failed.Stderr)))
	}
	return string(out), err
}
