package cli

import (
	"testing"

	"github.com/spf13/cobra"
)

func TestFlagsAndEnvironment(t *testing.T) {
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		want map[string]string
	}{
		{"defaults", nil, nil,
			map[string]string{"node-name": "", "deny": "drop", "pod-to-node": "police", "log-level": "info"}},
		{"environment", map[string]string{"PODFENCE_NODE_NAME": "a", "PODFENCE_DENY": "reject", "PODFENCE_METRICS_ADDRESS": "0"}, nil,
			map[string]string{"node-name": "a", "deny": "reject", "metrics-address": "0", "pod-to-node": "police"}},
		{"a flag wins", map[string]string{"PODFENCE_NODE_NAME": "a", "PODFENCE_DENY": "reject"}, []string{"--node-name", "b"},
			map[string]string{"node-name": "b", "deny": "reject"}},
		{"a flag wins even with its default", map[string]string{"PODFENCE_DENY": "reject"}, []string{"--deny=drop"},
			map[string]string{"deny": "drop"}},
		{"the last of a flag wins, as patches add them", map[string]string{"PODFENCE_ROUTING": "vxlan"}, []string{"--routing=auto", "--routing=host-gw"},
			map[string]string{"routing": "host-gw"}},
		{"a version that is not the program's", map[string]string{"PODFENCE_VERSION": "1", "PODFENCE_HELP": "1"}, nil,
			map[string]string{"deny": "drop"}},
		{"set but empty is set", map[string]string{"PODFENCE_METRICS_ADDRESS": ""}, nil,
			map[string]string{"metrics-address": ""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv(name, value)
			}
			root := Command(version)
			agent, _, err := root.Find([]string{"agent"})
			if err != nil {
				t.Fatal(err)
			}
			agent.RunE = func(cmd *cobra.Command, _ []string) error {
				for flag, want := range c.want {
					if got := cmd.Flags().Lookup(flag).Value.String(); got != want {
						t.Errorf("--%s is %q, want %q", flag, got, want)
					}
				}
				return nil
			}
			if _, _, err := execute(t, root, append([]string{"agent"}, c.args...)...); err != nil {
				t.Error(err)
			}
		})
	}
}
