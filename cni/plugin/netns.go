package plugin

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/types"
	"golang.org/x/sys/unix"

	"github.com/podfence/podfence/cni/netns"
)

// openNetNS opens the pod's network namespace, which is not the node's. Its
// errors have a CNI code.
func openNetNS(path string) (int, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, invalidEnvironment("CNI_NETNS", fmt.Errorf("network namespace %s: %w", path, err))
	}
	if err := checkNetNS(fd, path); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func checkNetNS(fd int, path string) error {
	// See ioctl_ns(2). Other files don't know the request.
	kind, err := unix.IoctlRetInt(fd, unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		return invalidEnvironment("CNI_NETNS", fmt.Errorf("%s is no network namespace", path))
	}
	var own, pod unix.Stat_t
	if err := errors.Join(unix.Stat(netns.Own, &own), unix.Fstat(fd, &pod)); err != nil {
		return fmt.Errorf("network namespace %s: %w", path, err)
	}
	if own.Dev == pod.Dev && own.Ino == pod.Ino {
		// The CNI library looks only after ADD.
		return types.NewError(types.ErrInvalidNetNS, fmt.Sprintf("CNI_NETNS: %s is the plugin's own network namespace", path), "")
	}
	return nil
}

// setting is a kernel setting of a network namespace.
type setting struct{ name, value string }

// apply writes settings in the calling thread's namespace, in order. Those of a
// protocol that the kernel doesn't have are skipped: there is nothing to set.
func apply(settings []setting) error {
	for _, s := range settings {
		// Without O_CREATE, what this kernel lacks is ENOENT.
		file, err := os.OpenFile(filepath.Join("/proc/sys", s.name), os.O_WRONLY, 0)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("sysctl: %w", err)
		}
		_, err = file.WriteString(s.value)
		if err := errors.Join(err, file.Close()); err != nil {
			return fmt.Errorf("sysctl %s=%s: %w", s.name, s.value, err)
		}
	}
	return nil
}
