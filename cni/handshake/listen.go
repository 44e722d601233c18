package handshake

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrInUse says that another process answers on the socket.
var ErrInUse = errors.New("another process listens")

// Listen makes the socket, mode 0600, and the directory that it is in, mode
// 0700, if it is missing. A socket on which nobody answers is a dead agent's and is
// replaced; if somebody answers, the error is ErrInUse. If there is something else than a
// socket, it is left alone, and there is an error. Closing the listener removes the socket.
//
// It may be called concurrently, by several processes: one of them gets it.
func Listen(path string) (net.Listener, error) {
	l, err := listen(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}

func listen(path string) (net.Listener, error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	// Between asking whether somebody answers and removing the socket, another
	// could have made it anew. The directory itself is the lock: no file is
	// left over.
	lock, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(lock)
	if err := flock(lock); err != nil {
		return nil, fmt.Errorf("lock its directory: %w", err)
	}
	if err := makeWay(path); err != nil {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	// A client that connects before this line is asked for its credentials like all
	// others.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func flock(fd int) error {
	for {
		if err := unix.Flock(fd, unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// makeWay removes a socket on which nobody answers.
func makeWay(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Mode().Type() != os.ModeSocket {
		return errors.New("what is there is no socket")
	}
	conn, err := net.Dial("unix", path)
	switch {
	case err == nil:
		conn.Close()
		return ErrInUse
	case errors.Is(err, unix.EAGAIN):
		// It listens, and its backlog is full.
		return ErrInUse
	case !errors.Is(err, unix.ECONNREFUSED):
		return err
	}
	return os.Remove(path)
}
