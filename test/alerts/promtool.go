package alerts

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"sigs.k8s.io/yaml"
)

// Rule is an alerting rule.
type Rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for,omitempty"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

// Group is a group of rules, as Prometheus reads it.
type Group struct {
	Name  string `json:"name"`
	Rules []Rule `json:"rules"`
}

// Groups reads the groups of a PrometheusRule.
func Groups(path string) ([]Group, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var object struct {
		Kind string `json:"kind"`
		Spec struct {
			Groups []Group `json:"groups"`
		} `json:"spec"`
	}
	if err := yaml.Unmarshal(text, &object); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if object.Kind != "PrometheusRule" || len(object.Spec.Groups) == 0 {
		return nil, fmt.Errorf("%s is a %s with %d groups, not a PrometheusRule with some", path, object.Kind, len(object.Spec.Groups))
	}
	return object.Spec.Groups, nil
}

// Promtool runs promtool, of Prometheus, in a folder that has the groups as rules.yaml and tests as
// tests.yaml. It returns what promtool has written. The folder is gone afterwards.
func Promtool(groups []Group, tests []byte, args ...string) (string, error) {
	path, err := exec.LookPath("promtool")
	if err != nil {
		return "", errors.New("promtool is missing, which is in Debian's package prometheus: make packages installs it")
	}
	folder, err := os.MkdirTemp("", "podfence-promtool-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(folder)
	rules, err := yaml.Marshal(map[string][]Group{"groups": groups})
	if err != nil {
		return "", err
	}
	for name, text := range map[string][]byte{"rules.yaml": rules, "tests.yaml": tests} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			return "", err
		}
	}
	command := exec.Command(path, args...)
	command.Dir = folder
	out, err := command.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("promtool %v: %w\n%s", args, err, out)
	}
	return string(out), nil
}
