package lint

import "testing"

// TestNear: slips are near, and names that are both right are not.
func TestNear(t *testing.T) {
	for _, c := range []struct {
		a, b string
		near bool
	}{
		{"web", "webb", true}, {"web", "wbe", true}, {"web", "we", false}, {"Web", "web", true}, {"http", "htpp", true},
		{"kube-dns", "kubedns", true}, {"prometheus", "prometeus", true}, {"monitoring", "monitorng", true}, {"backend", "backned", true},
		{"app.kubernetes.io/name", "app.kubernetes.io/nmae", true},
		{"api", "app", false}, {"web", "wep", false}, {"web", "web2", false}, {"web-1", "web-2", false}, {"web", "web-2", false}, {"team-a", "team-b", false},
		{"shop-dev", "shop-qa", false}, {"eu-west", "us-west", false}, {"v1", "v2", false}, {"a", "b", false}, {"", "web", false}, {"web", "web", false},
		{"frontend", "backend", false}, {"cart", "card-service", false}, {"blue", "green", false},
	} {
		for _, words := range [][2]string{{c.a, c.b}, {c.b, c.a}} {
			if _, is := near(words[0], words[1]); is != c.near {
				t.Errorf("near(%q, %q) is %t", words[0], words[1], is)
			}
		}
	}
}

// TestEdits: each way to slip is one.
func TestEdits(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"abc", "abc", 0}, {"", "abc", 3}, {"abc", "abcd", 1}, {"abc", "bc", 1}, {"abc", "axc", 1}, {"abc", "acb", 1}, {"abcd", "badc", 2}, {"kitten", "sitting", 3},
	} {
		if got := edits(c.a, c.b); got != c.want {
			t.Errorf("edits(%q, %q) is %d, want %d", c.a, c.b, got, c.want)
		}
	}
}
