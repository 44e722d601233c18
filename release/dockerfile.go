package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// prebuiltStage is the Dockerfile's stage that takes binaries that are there already.
const prebuiltStage = "prebuilt"

// recipe is what a Dockerfile says of an image that holds nothing but files.
type recipe struct {
	labels     map[string]string
	entrypoint []string
	// files are the programs in the image: where there, by their names among the binaries.
	files map[string]string
}

// readDockerfile returns the image that a stage of a Dockerfile makes. Args are the build's
// arguments, over the Dockerfile's own defaults. An instruction that it does not know is an
// error: the image would lack what that says.
func readDockerfile(name, stage string, args map[string]string) (*recipe, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	parsed, err := parser.Parse(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	r, err := evaluate(parsed.AST, stage, args)
	if err != nil {
		return nil, fmt.Errorf("%s: stage %s: %w", name, stage, err)
	}
	return r, nil
}

func evaluate(file *parser.Node, stage string, args map[string]string) (*recipe, error) {
	instructions, base, err := stageOf(file, stage)
	if err != nil {
		return nil, err
	}
	r := &recipe{labels: map[string]string{}, files: map[string]string{}}
	if base != "scratch" {
		if r, err = evaluate(file, base, args); err != nil {
			return nil, err
		}
	}
	env := &arguments{given: args, known: map[string]string{}}
	for _, instruction := range instructions {
		if err := r.take(instruction, env); err != nil {
			return nil, fmt.Errorf("line %d: %s: %w", instruction.StartLine, instruction.Value, err)
		}
	}
	return r, nil
}

// stageOf returns a stage's instructions, and what it is from.
func stageOf(file *parser.Node, stage string) (instructions []*parser.Node, base string, err error) {
	inside := false
	for _, instruction := range file.Children {
		if !strings.EqualFold(instruction.Value, "FROM") {
			if inside {
				instructions = append(instructions, instruction)
			}
			continue
		}
		words := wordsOf(instruction)
		if inside = len(words) == 3 && strings.EqualFold(words[2], stage); inside {
			base = words[0]
		}
	}
	if base == "" {
		return nil, "", fmt.Errorf("the Dockerfile has no stage %q", stage)
	}
	return instructions, base, nil
}

// take adds to an image what an instruction says.
func (r *recipe) take(instruction *parser.Node, env *arguments) error {
	words := wordsOf(instruction)
	if len(instruction.Flags) > 0 {
		return fmt.Errorf("the flags %q are not known here", instruction.Flags)
	}
	switch strings.ToUpper(instruction.Value) {
	case "ARG":
		for _, word := range words {
			env.declare(word)
		}
		return nil
	case "LABEL":
		// The parser has three words for each: the key, the value and what is between the two.
		for i := 0; i+2 < len(words); i += 3 {
			value, err := env.expand(words[i+1])
			if err != nil {
				return err
			}
			r.labels[words[i]] = value
		}
		return nil
	case "ENTRYPOINT":
		if !instruction.Attributes["json"] {
			return fmt.Errorf("only the form of a JSON list is known, as there is no shell in the image")
		}
		r.entrypoint = words
		return nil
	case "COPY":
		to := words[len(words)-1]
		for _, from := range words[:len(words)-1] {
			r.files[path.Join(to, path.Base(from))] = path.Base(from)
		}
		return nil
	default:
		return fmt.Errorf("the instruction is not known here")
	}
}

func wordsOf(instruction *parser.Node) (words []string) {
	for node := instruction.Next; node != nil; node = node.Next {
		words = append(words, node.Value)
	}
	return words
}

// arguments are a stage's: those that it has declared, with what the build has given for them, or
// else their defaults. It is shell.EnvGetter.
type arguments struct {
	given, known map[string]string
}

func (a *arguments) declare(word string) {
	name, value, _ := strings.Cut(word, "=")
	if given, is := a.given[name]; is {
		value = given
	}
	a.known[name] = value
}

func (a *arguments) expand(word string) (string, error) {
	text, unmatched, err := shell.NewLex('\\').ProcessWord(word, a)
	if err == nil && len(unmatched) > 0 {
		err = fmt.Errorf("%s asks for arguments that are not declared", word)
	}
	return text, err
}

// Get returns an argument's value, and whether it is declared.
func (a *arguments) Get(name string) (string, bool) { value, is := a.known[name]; return value, is }

// Keys returns the names of all that are declared, in no order.
func (a *arguments) Keys() (names []string) {
	for name := range a.known {
		names = append(names, name)
	}
	return names
}

// String is the image as JSON, for errors and tests.
func (r *recipe) String() string {
	text, err := json.Marshal(map[string]any{"labels": r.labels, "entrypoint": r.entrypoint, "files": r.files})
	if err != nil {
		return err.Error()
	}
	return string(text)
}
