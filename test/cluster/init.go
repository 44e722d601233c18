package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// hostSpec is what a host's first process is told.
type hostSpec struct {
	Name string `json:"name"`
	// Root is the host's own root file system; nil leaves it the machine's.
	Root *rootSpec `json:"root,omitempty"`
	// Path is where the services find programs.
	Path     string    `json:"path"`
	LogDir   string    `json:"logDir"`
	Services []service `json:"services"`
}

// service is a program that a host runs. Services start in order.
type service struct {
	Name    string   `json:"name"`
	Command []string `json:"command"`
	// Once is for a command that ends, and must succeed before the next starts.
	Once bool `json:"once,omitempty"`
	// Ready is a command that succeeds when the next service can start.
	Ready []string `json:"ready,omitempty"`
}

// restartDelay is the time before a service that has ended starts again.
const restartDelay = time.Second

// Init is the first process of a host: it mounts the host's file systems,
// starts its services, and starts again those that end. It returns only if it
// fails; as process 1 of its namespace it takes all others with it.
func Init(specFile string) error {
	data, err := os.ReadFile(specFile)
	if err != nil {
		return err
	}
	var spec hostSpec
	if err := json.Unmarshal(data, &spec); err != nil {
		return err
	}
	logs, err := openLogs(spec)
	if err != nil {
		return err
	}
	if err := unix.Sethostname([]byte(spec.Name)); err != nil {
		return fmt.Errorf("host name: %w", err)
	}
	if err := mountAll(spec.Root); err != nil {
		return err
	}
	if err := os.Setenv("PATH", spec.Path); err != nil {
		return err
	}
	ready := os.NewFile(3, "ready")
	if _, err := ready.Write([]byte{1}); err != nil {
		return err
	}
	ready.Close()

	s := &supervisor{logs: logs, ended: make(chan ended), running: map[int]service{}}
	go reap(s.ended)
	for _, service := range spec.Services {
		if err := s.bring(service); err != nil {
			return fmt.Errorf("%s: %w", service.Name, err)
		}
	}
	for e := range s.ended {
		s.restart(e.pid)
	}
	return nil
}

// openLogs opens the services' logs before the root changes.
func openLogs(spec hostSpec) (map[string]*os.File, error) {
	logs := map[string]*os.File{}
	for _, service := range spec.Services {
		if logs[service.Name] != nil {
			continue
		}
		// Appended to: a node's restart is part of its log.
		file, err := os.OpenFile(filepath.Join(spec.LogDir, spec.Name+"-"+service.Name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
		if err != nil {
			return nil, err
		}
		logs[service.Name] = file
	}
	return logs, nil
}

// supervisor keeps services running.
type supervisor struct {
	logs    map[string]*os.File
	ended   chan ended
	running map[int]service
}

// ended is a process that has.
type ended struct {
	pid    int
	status unix.WaitStatus
}

// bring starts a service and returns when the next may start.
func (s *supervisor) bring(service service) error {
	if service.Once {
		return s.run(service, service.Command)
	}
	if err := s.start(service); err != nil || len(service.Ready) == 0 {
		return err
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		err := s.run(service, service.Ready)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}

func (s *supervisor) start(service service) error {
	pid, err := s.spawn(service, service.Command)
	if err == nil {
		s.running[pid] = service
	}
	return err
}

// run runs a command to its end, which must be a success.
func (s *supervisor) run(service service, command []string) error {
	pid, err := s.spawn(service, command)
	if err != nil {
		return err
	}
	for {
		e := <-s.ended
		if e.pid != pid {
			s.restart(e.pid)
			continue
		}
		if e.status != 0 {
			return fmt.Errorf("%s: it ended with status %#x", strings.Join(command, " "), uint32(e.status))
		}
		return nil
	}
}

func (s *supervisor) spawn(service service, command []string) (pid int, err error) {
	program, err := exec.LookPath(command[0])
	if err != nil {
		return 0, err
	}
	// Not os/exec, whose Wait would compete with reap.
	process, err := os.StartProcess(program, command, &os.ProcAttr{
		Files: []*os.File{nil, s.logs[service.Name], s.logs[service.Name]},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	pid = process.Pid // Release forgets it
	return pid, process.Release()
}

// restart starts a service again whose process has ended.
func (s *supervisor) restart(pid int) {
	service, known := s.running[pid]
	if !known {
		return // an orphan: what a container left behind
	}
	delete(s.running, pid)
	log := s.logs[service.Name]
	fmt.Fprintf(log, "podfence-cluster: %s has ended; it starts again in %s\n", service.Name, restartDelay)
	time.Sleep(restartDelay)
	if err := s.start(service); err != nil {
		fmt.Fprintf(log, "podfence-cluster: %s: %v\n", service.Name, err)
	}
}

// reap collects the processes that have ended: the host's own and orphans.
func reap(to chan<- ended) {
	for {
		var e ended
		var err error
		e.pid, err = unix.Wait4(-1, &e.status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil: // ECHILD: none yet
			time.Sleep(50 * time.Millisecond)
		default:
			to <- e
		}
	}
}

// kubeletSysctls are those that kubelet sets and that are the whole machine's.
// On a node they are plain files.
var kubeletSysctls = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

// rootSpec is a root file system of a host's own, that has the machine's
// programs.
type rootSpec struct {
	// Dir holds it. What the host writes there outlives the host's restart.
	Dir string `json:"dir"`
	// Show are directories of the machine's that are seen at their own paths.
	Show []string `json:"show"`
}

// mountAll gives the host its file systems. Nothing that it mounts is seen
// outside of its mount namespace.
func mountAll(root *rootSpec) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	if root == nil {
		return mount("proc", "/proc", "proc", 0, "")
	}
	at, upper, work := filepath.Join(root.Dir, "tree"), filepath.Join(root.Dir, "etc"), filepath.Join(root.Dir, "work")
	for _, dir := range []string{at, upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	// What a new root is must be a mount.
	if err := mount(at, at, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	type m struct {
		source, target, kind string
		flags                uintptr
		data                 string
	}
	mounts := []m{
		{"etc", "/etc", "overlay", 0, "lowerdir=/etc,upperdir=" + upper + ",workdir=" + work},
		{"proc", "/proc", "proc", 0, ""},
		{"sysfs", "/sys", "sysfs", 0, ""}, // shows the links of the network namespace
		{cgroups, cgroups, "", unix.MS_BIND | unix.MS_REC, ""},
		{"/dev", "/dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"tmpfs", "/run", "tmpfs", 0, ""}, // emptied by a restart
		{"tmpfs", "/tmp", "tmpfs", 0, ""},
	}
	// The programs: /usr, and /bin, /lib ... where those aren't links into it.
	for _, path := range []string{"/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"} {
		target, err := os.Readlink(path)
		switch info, statErr := os.Lstat(path); {
		case statErr != nil:
		case err == nil:
			if err := os.Symlink(target, at+path); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
		case info.IsDir():
			mounts = append(mounts, m{path, path, "", unix.MS_BIND | unix.MS_REC, ""})
		}
	}
	for _, path := range root.Show {
		mounts = append(mounts, m{path, path, "", unix.MS_BIND, ""})
	}
	for _, m := range mounts {
		if err := os.MkdirAll(at+m.target, 0o755); err != nil {
			return err
		}
		if err := mount(m.source, at+m.target, m.kind, m.flags, m.data); err != nil {
			return err
		}
	}
	for _, path := range []string{"/var/lib", "/var/log", "/root"} {
		if err := os.MkdirAll(at+path, 0o755); err != nil {
			return err
		}
	}
	// As everywhere, so that what is kept there is emptied, too.
	if err := os.Symlink("/run", at+"/var/run"); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := hideSysctls(at); err != nil {
		return err
	}
	// The old root goes below the new one for a moment, and then away.
	if err := os.Mkdir(filepath.Join(at, "run", "machine"), 0o700); err != nil {
		return err
	}
	if err := unix.PivotRoot(at, filepath.Join(at, "run", "machine")); err != nil {
		return fmt.Errorf("change root to %s: %w", at, err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := unix.Unmount("/run/machine", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the machine's root: %w", err)
	}
	// kubelet passes mounts on to containers and back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	return nil
}

// hideSysctls puts a file with the same content over each of kubeletSysctls.
func hideSysctls(at string) error {
	for _, name := range kubeletSysctls {
		path := filepath.Join(at, "proc/sys", name)
		value, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		copied := filepath.Join(at, "run/sysctl", strings.ReplaceAll(name, "/", "."))
		if err := os.MkdirAll(filepath.Dir(copied), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(copied, value, 0o644); err != nil {
			return err
		}
		if err := mount(copied, path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	return nil
}

func mount(source, target, kind string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, kind, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", source, target, err)
	}
	return nil
}
