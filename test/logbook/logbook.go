// Package logbook keeps what an agent in a test's own process logs.
package logbook

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
)

// Book is a log, line by line. It may be used from any goroutine.
type Book struct {
	// Also, if not nil, gets each line too.
	Also io.Writer

	mu    sync.Mutex
	lines []string
}

// Logger writes into the book.
func (b *Book) Logger() logr.Logger {
	return funcr.New(func(prefix, args string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lines = append(b.lines, prefix+": "+args)
		if b.Also != nil {
			fmt.Fprintln(b.Also, prefix+":", args)
		}
	}, funcr.Options{})
}

// With are the lines that have a text in them.
func (b *Book) With(text string) (lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, line := range b.lines {
		if strings.Contains(line, text) {
			lines = append(lines, line)
		}
	}
	return lines
}
