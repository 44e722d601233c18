package agent

import "testing"

func TestNearestNames(t *testing.T) {
	for _, c := range []struct {
		name  string
		names []string
		want  string
	}{
		{"node-1", nil, "; there are no Nodes"},
		{"node-1", []string{"other", "node-2.example.com", "node-1.example.com"}, "; nearest of 3: node-1.example.com, node-2.example.com, other"},
		{"Node-1.Example.com", []string{"a", "b", "c", "node-1", "node-10"}, "; nearest of 5: node-1, node-10, a"},
		{"ip-10-0-0-7", []string{"ip-10-0-0-71", "ip-10-0-1-7", "ip-10-0-0-7.ec2.internal"}, "; nearest of 3: ip-10-0-0-7.ec2.internal, ip-10-0-0-71, ip-10-0-1-7"},
	} {
		if got := suggestion(c.name, c.names); got != c.want {
			t.Errorf("for %s: %q, want %q", c.name, got, c.want)
		}
	}
}
