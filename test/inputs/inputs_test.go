package inputs

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestOpened: what is opened is in the log that the go command has a test write.
func TestOpened(t *testing.T) {
	const here = "PODFENCE_TEST_OPENS"
	if os.Getenv(here) != "" {
		if err := Packages("github.com/podfence/podfence", "github.com/podfence/podfence/test/demo"); err != nil {
			t.Error(err)
		}
		if err := Trees("../../charts"); err != nil {
			t.Error(err)
		}
		return
	}
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(t.TempDir(), "log")
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOpened$", "-test.testlogfile="+log)
	cmd.Env = append(os.Environ(), here+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{
		root, root + "/go.mod", root + "/cli", root + "/policy", root + "/controllers", root + "/ruleset/kernel", root + "/test/demo/shop/cluster.yaml",
		"../../charts", "../../charts/podfence/templates",
	} {
		if !strings.Contains(string(text), "\nopen "+path+"\n") {
			t.Errorf("%s is not opened", path)
		}
	}
	if strings.Contains(string(text), root+"/test/soak") {
		t.Error("podfence is not compiled from its tests")
	}
}

func TestUnknown(t *testing.T) {
	if err := Packages("./nowhere"); err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Error(err)
	}
	if err := Trees("nowhere"); !os.IsNotExist(err) {
		t.Error(err)
	}
}
