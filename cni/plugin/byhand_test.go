package plugin_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Where the plugin is installed it has the other program's name. Who means that one, and
// gives it a command, must not be told that all went well.
func TestByHand(t *testing.T) {
	if err := build(); err != nil {
		t.Fatal(err)
	}
	byHand := func(args ...string) (stdout, stderr string, exit int) {
		t.Helper()
		cmd := exec.Command(filepath.Join(binDir, "podfence"), args...)
		var out, errs strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &errs
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return out.String(), errs.String(), cmd.ProcessState.ExitCode()
	}
	for _, args := range [][]string{{"uninstall"}, {"--help"}, {"agent", "--node-name", "node-1"}} {
		stdout, stderr, exit := byHand(args...)
		if exit != 2 || stdout != "" || !strings.Contains(stderr, "CNI plugin") || !strings.Contains(stderr, args[0]) {
			t.Errorf("%v ends with %d, and says %q and %q", args, exit, stdout, stderr)
		}
	}
	// Without arguments a plugin says what it is, to whoever looks.
	if _, stderr, exit := byHand(); exit != 0 || !strings.Contains(stderr, "CNI plugin podfence") || !strings.Contains(stderr, ", "+runtime.GOOS+"/"+runtime.GOARCH+")\n") {
		t.Errorf("without arguments it ends with %d, and says %q", exit, stderr)
	}
}
