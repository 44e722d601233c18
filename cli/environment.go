package cli

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/pflag"
)

// environment is the variable for a flag; none for those that are no settings.
func environment(f *pflag.Flag) (name, value string, set bool) {
	if f.Name == "help" || f.Name == "version" {
		return "", "", false
	}
	name = "PODFENCE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
	value, set = os.LookupEnv(name)
	return name, value, set
}

// fromEnvironment sets every flag that the command line has not set.
func fromEnvironment(flags *pflag.FlagSet) error {
	var errs []error
	flags.VisitAll(func(f *pflag.Flag) {
		if name, value, set := environment(f); set && !f.Changed {
			if err := flags.Set(f.Name, value); err != nil {
				errs = append(errs, fmt.Errorf("environment variable %s: %w", name, err))
				return
			}
			f.Changed = false // by the command line
		}
	})
	return errors.Join(errs...)
}

// unheeded are the variables of the environment that the command line has overruled.
func unheeded(flags *pflag.FlagSet) (names []string) {
	flags.Visit(func(f *pflag.Flag) {
		if name, value, set := environment(f); set && f.Changed && value != f.Value.String() {
			names = append(names, name)
		}
	})
	return names
}
