package apiserver

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// ClusterNetworkPolicies is the API's own CustomResourceDefinition of them, with all fields that there
// are, which is the one of its experimental channel. Only these versions are served.
func ClusterNetworkPolicies(served ...string) (*apiextensionsv1.CustomResourceDefinition, error) {
	crd, err := ClusterNetworkPoliciesOf("experimental")
	if err != nil {
		return nil, err
	}
	ServeVersions(crd, served...)
	return crd, nil
}

// ClusterNetworkPoliciesOf is that of a channel, as published.
func ClusterNetworkPoliciesOf(channel string) (*apiextensionsv1.CustomResourceDefinition, error) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "sigs.k8s.io/network-policy-api").Output()
	if err != nil {
		return nil, fmt.Errorf("looking for the module sigs.k8s.io/network-policy-api: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "config", "crd", channel, "policy.networking.k8s.io_clusternetworkpolicies.yaml"))
	if err != nil {
		return nil, err
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.Unmarshal(text, crd); err != nil {
		return nil, err
	}
	crd.Status = apiextensionsv1.CustomResourceDefinitionStatus{}
	return crd, nil
}

// ServeVersions has a definition serve these versions alone.
func ServeVersions(crd *apiextensionsv1.CustomResourceDefinition, served ...string) {
	for i := range crd.Spec.Versions {
		version := &crd.Spec.Versions[i]
		version.Served = slices.Contains(served, version.Name)
	}
}
