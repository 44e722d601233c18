package controllers

import (
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
