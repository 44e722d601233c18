package cli

import (
	"bufio"
	"errors"
	"os/exec"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/podfence/podfence/cni/node"
	"github.com/podfence/podfence/test/inputs"
)

// The agent takes all that the chart gives it, and with that what the overlays
// do: charts holds these equal.
func TestAgentTakesChart(t *testing.T) {
	outside(t)
	for _, mode := range []string{"bridge", "chained", "none"} {
		for _, values := range []string{
			"deny=drop,podToNode=police,log.level=info,log.format=text,cni.routing=host-gw,cni.peersFirst=prefer",
			"deny=reject,podToNode=allow,log.level=debug,log.format=json,cni.routing=vxlan,cni.peersFirst=require",
			"log.level=error,metrics.prometheus.enabled=true,cni.peersFirst=off",
		} {
			t.Run(mode+","+values, func(t *testing.T) {
				container := chartDaemonSet(t, "cni.mode="+mode+","+values).Spec.Template.Spec.Containers[0]
				root := Command(version)
				agent, _, err := root.Find(container.Args)
				if err != nil {
					t.Fatal(err)
				}
				// The last thing that the agent looks at before it turns to the node
				// and the cluster is its own name, which is not in args.
				_, _, err = execute(t, root, container.Args...)
				if err == nil || !strings.HasPrefix(err.Error(), "--node-name is needed") {
					t.Errorf("%v: %v", container.Args, err)
				}
				if got := agent.Flags().Lookup("cni").Value.String(); got != mode {
					t.Errorf("--cni is %q, want %q", got, mode)
				}
				if _, err := node.ParseMode(agent.Flags().Lookup("routing").Value.String()); err != nil {
					t.Error(err)
				}
				for _, env := range container.Env {
					name, is := strings.CutPrefix(env.Name, "PODFENCE_")
					if is && agent.Flags().Lookup(strings.ReplaceAll(strings.ToLower(name), "_", "-")) == nil {
						t.Errorf("%s is no flag", env.Name)
					}
				}
			})
		}
	}
}

// chartDaemonSet is the chart's DaemonSet, strictly read.
func chartDaemonSet(t *testing.T, values string) *appsv1.DaemonSet {
	t.Helper()
	if err := inputs.Trees("../charts/podfence", "../test/tools"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "-C", "../test/tools", "tool", "helm", "template", "podfence", "../../charts/podfence", "-s", "templates/daemonset.yaml", "--set", values).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("helm: %v: %s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	document, err := utilyaml.NewYAMLReader(bufio.NewReader(strings.NewReader(string(out)))).Read()
	if err != nil {
		t.Fatal(err)
	}
	ds := &appsv1.DaemonSet{}
	if err := yaml.UnmarshalStrict(document, ds); err != nil {
		t.Fatal(err)
	}
	if len(ds.Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("the DaemonSet is not as expected:\n%s", out)
	}
	return ds
}
