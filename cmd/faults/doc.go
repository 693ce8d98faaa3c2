// Command faults runs the tests of the fault checklist in full size, and prints what each measured as a table.
//
//	go run ./cmd/faults [--markdown FILE] [--run REGEXP] [packages]
//
// A test belongs to the checklist by its name: TestR05KillingRedisLosesNothing is a test of row R05. Several tests may share a row. What a test
// measured it says with t.Attr("measured", "…"), in one short line.
//
// # Exit status
//
//	0  every required row has a test, every test passed, none was skipped
//	1  anything else
//
// # Decisions
//
//   - The tests are run by `go test -json`, one package after the other: they measure, and would disturb each other.
//   - A test in full size is the test that `make test` runs, under PULSEGATE_FAULTS=full. So nothing is tested here alone.
//   - Rows of areas that are still to be built are listed when they have tests, and not required.
package main
