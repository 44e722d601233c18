package document

import "testing"

func TestTableIsPutBetweenTheMarks(t *testing.T) {
	const begins, ends = "<!-- chaos: written by make chaos -->\n", "<!-- /chaos -->\n"
	got, err := between([]byte("a\n"+begins+"old\n"+ends+"b\n"), "chaos", "new\n")
	if want := "a\n" + begins + "new\n" + ends + "b\n"; err != nil || string(got) != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
	if _, err := between([]byte("a\n"+begins), "chaos", "new\n"); err == nil {
		t.Error("a document without the second mark: no error")
	}
	if _, err := between([]byte("a\n"+begins+ends), "attack", "new\n"); err == nil {
		t.Error("a document with another target's marks: no error")
	}
}
