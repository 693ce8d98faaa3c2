// Package notify tells people and the platform.
package notify
