package commands_test

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"k8s.io/cli-runtime/pkg/genericiooptions"

	"github.com/podfence/podfence/api/flows"
	"github.com/podfence/podfence/kubectl-podfence/commands"
)

var update = flag.Bool("update", false, "write the examples of documents anew")

// example is a comment in a document that an example follows: a command, and all that it prints.
var example = regexp.MustCompile("(?m)^<!-- example -->\n\n```\n\\$ kubectl podfence (.*)\n(?s:.*?)```\n")

// TestDocuments: the examples of documents are what the commands in them print, where the files are. With
// -update they are written anew.
func TestDocuments(t *testing.T) {
	for _, document := range []struct {
		file, folder string
		commands     []string // that have an example
		// flows are those that an agent has seen; nil: no agent is asked.
		flows []*flows.Flow
	}{
		{"LINT.md", mistakes, []string{"lint"}, nil},
		{"REACH.md", shop, []string{"reach", "diff"}, nil},
		{"KUBECTL.md", shop, []string{"generate"}, nil},
		{"OBSERVE.md", ".", []string{"observe"}, documentFlows()},
	} {
		t.Run(document.file, func(t *testing.T) {
			file, err := filepath.Abs("../../docs/" + document.file)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			t.Chdir(document.folder)
			agent := ""
			if document.flows != nil {
				utc(t)
				agent = " " + (&flowAgent{seen: document.flows}).start(t)
			}
			shown := map[string]bool{}
			want := example.ReplaceAllStringFunc(string(data), func(block string) string {
				call := example.FindStringSubmatch(block)[1]
				shown[strings.Fields(call)[0]] = true
				return "<!-- example -->\n\n```\n$ kubectl podfence " + call + "\n" + printed(t, call+agent) + "```\n"
			})
			for _, command := range document.commands {
				if !shown[command] {
					t.Errorf("%s has no example of %s", file, command)
				}
			}
			if *update {
				if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
					t.Fatal(err)
				}
			} else if want != string(data) {
				t.Errorf("%s has other examples than the commands print (-update writes them):\n%s", file, want)
			}
		})
	}
}

// printed is all that a call prints.
func printed(t *testing.T, call string) string {
	t.Helper()
	var out bytes.Buffer
	code := commands.Main(t.Context(), "test", genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out}, strings.Fields(call))
	if code == 2 {
		t.Errorf("%s: %s", call, &out)
	}
	return out.String()
}

// documentFlows are what the examples of OBSERVE.md show.
func documentFlows() []*flows.Flow {
	from := func(name, ip string) flows.Endpoint {
		return flows.Endpoint{IP: netip.MustParseAddr(ip), Port: 40000, Namespace: "shop", Pod: name, Workload: &flows.Workload{Kind: "Deployment", Name: "cart"}}
	}
	rule := 0
	missed := func(f *flows.Flow) {
		f.NearestMiss = "NetworkPolicy shop/web-egress spec.egress[0].ports[0]: port 5432 is not in 5433"
	}
	return []*flows.Flow{
		denied(62345*time.Millisecond, missed),
		denied(64*time.Second, func(f *flows.Flow) {
			f.Source, f.Direction = from("cart-5c8", "10.1.0.9"), flows.Ingress
			f.NearestMiss = "NetworkPolicy shop/db spec.ingress[0].from[0].podSelector.matchLabels[app]: label app=card: the pod has app=cart"
			f.Policies = []flows.Policy{{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "db"}, {Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "default"}}
		}),
		denied(70*time.Second, func(f *flows.Flow) {
			f.Verdict, f.Direction, f.Asked = flows.WouldDeny, flows.Ingress, nil
			f.Destination = flows.Endpoint{IP: netip.MustParseAddr("10.1.0.5"), Port: 6379, Namespace: "shop", Pod: "cache-0"}
			f.NearestMiss = "NetworkPolicy shop/cache spec.ingress[0].from[0].podSelector.matchLabels[app]: label app=cart: the pod has app=web"
			f.Policies = []flows.Policy{{Kind: "NetworkPolicy", Tier: "NetworkPolicy", Namespace: "shop", Name: "cache", Staged: true}}
		}),
		denied(72345*time.Millisecond, missed),
		denied(75*time.Second, func(f *flows.Flow) {
			f.Source, f.Reason, f.Asked = from("cart-5c8", "10.1.0.9"), flows.ByRule, nil
			f.Destination = flows.Endpoint{IP: netip.MustParseAddr("169.254.169.254"), Port: 80}
			f.Policies = []flows.Policy{{Kind: "ClusterNetworkPolicy", Tier: "Admin", Name: "no-metadata", Rule: &rule, RuleName: "cloud metadata"}}
			f.Text = "a rule of a ClusterNetworkPolicy denies it"
		}),
	}
}
