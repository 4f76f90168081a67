// Package ui shows the program's documents to people and to programs: tables
// that fit a screen, JSON and YAML, pictures of the graph, and progress on
// standard error.
//
// A table answers what will happen, what happened, or what now; wide adds a
// line for each object. JSON and YAML are the document itself, field by field,
// and the same for the same document. Nothing is coloured, so that there is
// nothing for NO_COLOR to turn off.
//
// The package decides nothing and reads nothing but the values that it is
// given; it does not write to standard output by itself.
package ui
