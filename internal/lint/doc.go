// Package lint holds the house rules that a machine can check: who may import
// whom, and what code may not contain. It has tests only.
package lint
