package report

import (
	"fmt"
	"strings"

	"github.com/go-logr/logr"
	"github.com/go-logr/zapr"
)

// warn logs what somebody should look into, at zap's level warn. logr has none: without
// zap behind it, it is a line of info.
func warn(log logr.Logger, message string, keysAndValues ...any) {
	if under, is := log.GetSink().(zapr.Underlier); is {
		under.GetUnderlying().Sugar().Warnw(message, keysAndValues...)
		return
	}
	log.WithCallDepth(1).Info(message, keysAndValues...)
}

// spelledOut is how many of many things a line of the log, or an Event, names.
const spelledOut = 10

// Short is a list that names the first of many things, and how many more there are.
func Short(texts []string) []string {
	if more := len(texts) - spelledOut; more > 0 {
		return append(texts[:spelledOut:spelledOut], fmt.Sprintf("and %d more", more))
	}
	return texts
}

// oneLine is Short in one line.
func oneLine(texts []string) string { return strings.Join(Short(texts), " ") }
