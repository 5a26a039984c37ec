// Package house holds the rules of the house, as tests: who may know whom, that
// every package says what it is for, that nothing exported goes without a word,
// that files stay short enough to be read at one sitting, and that the unit files
// are as closed as we promise.
//
// It never holds code that the product runs: nothing imports it. Its tests read
// the source tree, behind every build tag, and need no network.
package house
