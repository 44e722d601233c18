package charts

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestHelmTest: what `helm test` starts is a hook all of it, in an order in which the policy is there before the pods
// are, with no rights and no privilege, with the image and the nodes of the agents; and no selector means these pods
// that is not the test's own.
func TestHelmTest(t *testing.T) {
	got := helmTest(t)
	if diff := cmp.Diff([]string{"Deployment/podfence-test", "NetworkPolicy/podfence-test", "Pod/podfence-test", "Service/podfence-test"}, slices.Sorted(maps.Keys(got))); diff != "" {
		t.Fatal(diff)
	}
	all := flat(t, got)
	weights := map[int]string{}
	for key := range got {
		annotations := key + ".metadata.annotations.helm.sh/"
		if all[annotations+"hook"] != `"test"` || all[annotations+"hook-delete-policy"] != `"before-hook-creation,hook-succeeded"` {
			t.Errorf("%s is no hook that is deleted", key)
		}
		text, _ := strconv.Unquote(all[annotations+"hook-weight"])
		weight, err := strconv.Atoi(text)
		if err != nil {
			t.Error(key, err)
		}
		weights[weight] = strings.TrimSuffix(key, "/podfence-test")
	}
	var order []string
	for _, weight := range slices.Sorted(maps.Keys(weights)) {
		order = append(order, weights[weight])
	}
	if diff := cmp.Diff([]string{"NetworkPolicy", "Service", "Deployment", "Pod"}, order); diff != "" {
		t.Error(diff)
	}

	image := flat(t, render(t))[agent+"image"]
	const server, client = "Deployment/podfence-test.spec.template.", "Pod/podfence-test."
	for _, of := range []string{server, client} {
		for path, want := range map[string]string{
			"spec.automountServiceAccountToken":                           "false",
			"spec.serviceAccountName":                                     "",
			"spec.hostNetwork":                                            "",
			"spec.securityContext.runAsNonRoot":                           "true",
			"spec.securityContext.seccompProfile.type":                    `"RuntimeDefault"`,
			"spec.containers[0].securityContext.allowPrivilegeEscalation": "false",
			"spec.containers[0].securityContext.capabilities.drop[0]":     `"ALL"`,
			"spec.containers[0].securityContext.capabilities.add[0]":      "",
			"spec.containers[0].image":                                    image,
			"spec.nodeSelector.kubernetes.io/os":                          `"linux"`,
			"spec.tolerations[0].key":                                     `"node-role.kubernetes.io/control-plane"`,
			"spec.volumes[0].name":                                        "",
			"metadata.labels.app.kubernetes.io/name":                      `"podfence"`,
		} {
			if all[of+path] != want {
				t.Errorf("%s%s is %s, not %q", of, path, all[of+path], want)
			}
		}
	}

	// The policy and the Service mean the server, and the policy's one rule means the client.
	const component = "app.kubernetes.io/component"
	const policy = "NetworkPolicy/podfence-test.spec."
	for path, of := range map[string]string{
		policy + "podSelector.matchLabels.": server, policy + "ingress[0].from[0].podSelector.matchLabels.": client,
		"Service/podfence-test.spec.selector.": server, "Deployment/podfence-test.spec.selector.matchLabels.": server,
	} {
		if label := all[of+"metadata.labels."+component]; label == "" || all[path+component] != label {
			t.Errorf("%s is %s, and the pod has %s", path+component, all[path+component], label)
		}
	}
	if all[policy+"ingress[0].ports[0].port"] != "8080" || all[policy+"ingress[0].ports[1].port"] != "" || all[policy+"ingress[1].from"] != "" || all[policy+"policyTypes[0]"] != `"Ingress"` {
		t.Errorf("the policy allows something else than port 8080: %v", got["NetworkPolicy/podfence-test"])
	}

	// Of the release's own selectors none means the pods of the test.
	for path, value := range flat(t, render(t, `metrics.prometheus.enabled=true`, `uninstall=true`)) {
		if strings.HasSuffix(path, component) && strings.Contains(value, "test") {
			t.Errorf("%s is %s", path, value)
		}
	}

	changed := flat(t, helmTest(t, `test.tolerations=[{"operator":"Exists"}]`, `image.digest="`+digest+`"`, `imagePullSecrets=[{"name":"a"}]`, `nodeSelector.zone="a"`))
	for _, of := range []string{server, client} {
		for path, want := range map[string]string{
			"spec.tolerations[0].key": "", "spec.tolerations[0].operator": `"Exists"`, "spec.imagePullSecrets[0].name": `"a"`, "spec.nodeSelector.zone": `"a"`,
			"spec.containers[0].image": strings.TrimSuffix(image, `"`) + "@" + digest + `"`,
		} {
			if changed[of+path] != want {
				t.Errorf("%s%s is %s, not %q", of, path, changed[of+path], want)
			}
		}
	}
}

// helmTest is what `helm test` starts, with values as PATH=JSON.
func helmTest(t *testing.T, sets ...string) map[string]any {
	t.Helper()
	args := []string{"template", release, "podfence", "-n", namespace, "-s", "templates/tests/connectivity.yaml"}
	for _, set := range sets {
		args = append(args, "--set-json", set)
	}
	out, err := helm(t, args...)
	if err != nil {
		t.Fatal(fmt.Errorf("helm %v: %w", args, err))
	}
	return parse(t, out)
}
