// Package schedule decides who goes next.
package schedule
