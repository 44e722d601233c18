package cli

import (
	"cmp"
	"errors"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
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
			"deny=drop,podToNode=police,log.level=info,log.format=text,cni.routing=host-gw,cni.peersFirst=prefer,dropLog.to=stdout",
			"deny=reject,podToNode=allow,log.level=debug,log.format=json,cni.routing=vxlan,cni.peersFirst=require,dropLog.to=/var/log/podfence/drops.log",
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

// The status writer takes all that the chart gives it.
func TestStatusWriterTakesChart(t *testing.T) {
	outside(t)
	for _, values := range []string{"log.level=debug,log.format=json", "metrics.prometheus.enabled=true"} {
		deployment := &appsv1.Deployment{}
		chart(t, "status-writer.yaml", values, deployment)
		if len(deployment.Spec.Template.Spec.Containers) != 1 {
			t.Fatalf("the Deployment is not as expected: %+v", deployment)
		}
		container := deployment.Spec.Template.Spec.Containers[0]
		root := Command(version)
		writer, _, err := root.Find(container.Args)
		if err != nil {
			t.Fatal(err)
		}
		for _, env := range container.Env {
			t.Setenv(env.Name, cmp.Or(env.Value, "podfence-system"))
		}
		// The last thing that it looks at before it turns to the cluster is which one that is.
		if _, _, err = execute(t, root, container.Args...); err == nil || !strings.HasPrefix(err.Error(), "no API server") {
			t.Errorf("%v: %v", container.Args, err)
		}
		want := "127.0.0.1:9478"
		if strings.Contains(values, "prometheus") {
			want = ":9478"
		}
		for flag, want := range map[string]string{"leader-elect-namespace": "podfence-system", "metrics-bind-address": want} {
			if got := writer.Flags().Lookup(flag).Value.String(); got != want {
				t.Errorf("--%s is %q, want %q", flag, got, want)
			}
		}
		probed := container.ReadinessProbe.HTTPGet.Port.StrVal
		if !slices.ContainsFunc(container.Ports, func(p corev1.ContainerPort) bool {
			return p.Name == probed && fmt.Sprintf(":%d", p.ContainerPort) == writer.Flags().Lookup("health-probe-bind-address").Value.String()
		}) {
			t.Errorf("kubelet asks at port %s of %v", probed, container.Ports)
		}
	}
}

// The server and the client of helm test take all that the chart gives them, and agree on the ports.
func TestConnectivityTakesChart(t *testing.T) {
	deployment, client := &appsv1.Deployment{}, &corev1.Pod{}
	chart(t, "tests/connectivity.yaml", "", client)
	chart(t, "tests/connectivity.yaml", "", deployment)
	flags := func(container corev1.Container) *pflag.FlagSet {
		cmd, rest, err := Command(version).Find(container.Args)
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.ParseFlags(rest); err != nil || cmd.Flags().NArg() != 0 {
			t.Errorf("%v: %v, with %v left", container.Args, err, cmd.Flags().Args())
		}
		return cmd.Flags()
	}
	server, asker := flags(deployment.Spec.Template.Spec.Containers[0]), flags(client.Spec.Containers[0])
	got, want := server.Lookup("listen").Value.String(), fmt.Sprintf("[:%s,:%s]", asker.Lookup("allowed-port").Value, asker.Lookup("denied-port").Value)
	if got != want {
		t.Errorf("the server listens on %s, and the client asks at %s", got, want)
	}
	if got := asker.Lookup("server").Value.String(); got != "podfence-test.default.svc" {
		t.Errorf("the client asks %q", got)
	}
}

// chartDaemonSet is the chart's DaemonSet.
func chartDaemonSet(t *testing.T, values string) *appsv1.DaemonSet {
	t.Helper()
	ds := &appsv1.DaemonSet{}
	chart(t, "daemonset.yaml", values, ds)
	if len(ds.Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("the DaemonSet is not as expected: %+v", ds)
	}
	return ds
}

// chart reads the object of that kind in one of the chart's templates, strictly.
func chart(t *testing.T, template, values string, object any) {
	t.Helper()
	if err := inputs.Trees("../charts/podfence", "../test/tools"); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "-C", "../test/tools", "tool", "helm", "template", "podfence", "../../charts/podfence", "-s", "templates/"+template, "--set", values).Output()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		t.Fatalf("helm: %v: %s", err, exit.Stderr)
	} else if err != nil {
		t.Fatal(err)
	}
	kind := "\nkind: " + reflect.TypeOf(object).Elem().Name() + "\n"
	documents := slices.DeleteFunc(strings.Split(string(out), "\n---\n"), func(document string) bool { return !strings.Contains(document, kind) })
	if len(documents) != 1 {
		t.Fatalf("%s has %d documents with%s:\n%s", template, len(documents), kind, out)
	}
	if err := yaml.UnmarshalStrict([]byte(documents[0]), object); err != nil {
		t.Fatal(err)
	}
}
