// Package steps reads the files that templates are built from step by step, a
// subset of a Dockerfile's language, and says what each step comes to. It does
// no input or output.
//
// Parse turns text into a File. A State then follows the steps: Apply expands
// variables and gives an Action, what is to be done in the build's machine.
// Key names the layer that an action makes, by everything that it depends on.
//
// Text comes from strangers: its size, its lines, its steps and what variables
// expand to are bounded, and what is wrong with it is an *Error with the line
// and a stable code.
package steps

import "github.com/aetherium/aetherium/libs/types/pkg/domain"

// The bounds on a file.
const (
	MaxBytes = domain.MaxStepsBytes // of the file
	MaxLine  = 16 << 10             // of a line, continuations joined
	MaxSteps = 200                  // beside FROM
	MaxWords = 256                  // of one step
	MaxValue = 32 << 10             // of a value, variables expanded
	MaxFrom  = 512                  // of what FROM names
)
